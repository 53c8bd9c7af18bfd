"""A build from its beginning to its end: what goes in, what comes out, and that nothing of it stays."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from hostctl_lab.images import layout as make_layout

from hostctl.agent import building, generation
from hostctl.agent.apply import Notify
from hostctl.agent.build_method import BuildService, patiently
from hostctl.agent.building import BuildFailedError, BuildNotAllowedError, BuildRequestError
from hostctl.agent.bus import Call
from hostctl.agent.copying import CopyError, Mode
from hostctl.agent.exclusive import BusyError, OvertakenError
from hostctl.agent.execution import Target, UnknownCommandError
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.machine import SystemdMachine, UnitState
from hostctl.agent.outcome import Outcome
from hostctl.agent.request import Request as Command
from hostctl.config.load import parse_host
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.recipe import RecipeError
from hostctl.image.refusal import PullError
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout

HOST = """\
version: 1
hostname: a
build: {image: "localhost/buildah:1"}
workloads: {web: {image: "r.example/web:1"}}
"""
PIN = Pin(reference="r.example/base:1", digest=f"sha256:{'1' * 64}")


def _plain(output: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"cat >{output}")


class Up(SystemdMachine):
    """A machine on which everything is in one state."""

    active = "active"

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return the same for all."""
        more = {"sub": "", "result": "", "main_pid": 7, "restarts": 0, "active_for": 0.0}
        return {name: UnitState(name=name, active=self.active, **more) for name in names}  # type: ignore[arg-type]


class Builder:
    """Stands for a workload with buildah: keeps what it gets, and gives one image."""

    def __init__(self, layout: HostLayout, made: Path) -> None:
        self.layout, self.made = layout, made
        self.machine = Up(layout)
        self.ran: list[str] = []
        self.started: set[str] = set()
        self.got: list[tuple[str, list[str]]] = []
        self.fails = ""
        self.others: list[str] = []
        self.archive: bytes | None = None
        self.service = BuildService(layout, self.machine, self.apply, execute=self.execute, copy=self.copy, make=_plain)

    def apply(
        self,
        text: str,
        name: str,
        notify: Notify,
        *,
        base: int | None = None,
        starts: Mapping[str, bool] | None = None,
        live: frozenset[str] = frozenset(),
        looked_up: Collection[str] | None = (),
        wait: float = 0.0,
        require: Callable[[], object] = lambda: None,
    ) -> Outcome:
        """Put a declaration in force."""
        if base is not None and self.others:
            self.apply(self.others.pop(), "host.yaml", notify)
        if base is not None and base != max(generation.numbers(self.layout)):
            raise OvertakenError("another came between")
        self.started |= {each for each, start in (starts or {}).items() if start}
        number = max(generation.numbers(self.layout), default=0) + 1
        pins = {str(each): PIN for each in parse_host(text, name).workloads}
        record = Record(number=number, created="", release="1", declaration_sha256="", images=pins)
        generation.store(self.layout, Content(record=record, declaration=text, etc={}, bundles={}, network=b"{}"))
        generation.put_in_force(self.layout, number)
        return Outcome(generation=number, former=number - 1, actions=())

    def execute(self, where: Target, command: Command, layout: HostLayout, descriptors: Sequence[int]) -> int:
        """Run buildah."""
        assert command.argv[0] == "buildah"
        verb = next(word for word in command.argv if word in ("pull", "tag", "build", "push"))
        self.ran.append(verb)
        assert os.read(descriptors[0], 1) == b"", "it has nothing to read"
        os.write(descriptors[1], b"3" * 64 + b"\n" if verb == "pull" else f"{verb}\n".encode())
        return 2 if verb == self.fails else 0

    def copy(self, mode: Mode, pid: int, path: str, descriptor: int) -> object:
        """Take or give a tar stream."""
        assert pid == 7
        if mode == "unpack":
            with os.fdopen(os.dup(descriptor), "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                self.got.append((path, [info.name for info in tar]))
                return None
        if self.archive is not None:
            os.write(descriptor, self.archive)
            return None
        with os.fdopen(os.dup(descriptor), "wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
            tar.add(self.made, ".")
        return None

    def build(self, **request: object) -> Mapping[str, object]:
        """Build, and return what is answered."""
        (method,) = self.service.methods()
        assert (method.name, method.root_only, method.signature) == ("Build", True, "shhh")
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("Containerfile"))
        reader, writer = os.pipe()
        os.write(writer, context.getvalue())
        os.close(writer)
        said = os.open(self.layout.root / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            arguments = (json.dumps(request),)
            call = Call(uid=0, arguments=arguments, descriptors=(reader, said, said), notify=lambda text: None)
            document: Mapping[str, object] = json.loads(method.handler(call))
            return document
        finally:
            os.close(reader)
            os.close(said)

    def workloads(self) -> list[str]:
        """Return the names of all workloads."""
        stored = generation.current(self.layout)
        assert stored is not None
        return [*map(str, parse_host(stored.declaration, "x").workloads)]


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Return a host that may build, with one image that cannot be written out, as the tests' store has no EROFS."""
    layout = HostLayout(root=tmp_path / "root")
    (tmp_path / "root").mkdir()
    made = Builder(layout, tmp_path / "made")
    make_layout(tmp_path / "made", b"built")
    digest = make_layout(tmp_path / "base", b"base")
    ImageStore(layout.images).add(tmp_path / "base", digest, "r.example/base:1", make=_plain)
    made.apply(HOST, "host.yaml", lambda text: None)
    return made


def test_an_image_is_built_named_and_nothing_stays(builder: Builder) -> None:
    built = builder.build(tags=["site:2", "r.example/site:2"])
    assert built["names"] == ["docker.io/library/site:2", "r.example/site:2"]
    assert built["reference"] == "docker.io/library/site:2"
    names = ImageStore(builder.layout.images).names()
    assert {name for name, digest in names.items() if digest == built["digest"]} == set(built["names"])  # type: ignore[call-overload]
    assert builder.ran == ["build", "push"]
    assert builder.got == [("/build", ["context"]), ("/build", ["Containerfile"])]
    assert (builder.layout.root / "said").read_text() == "build\npush\n"
    assert builder.workloads() == ["web"]
    assert len(builder.started) == 1, "it is started by hand only, so that no boot does it"
    assert builder.build()["names"] == []


def test_what_somebody_else_applies_meanwhile_stays(builder: Builder) -> None:
    builder.others = [HOST + "volumes: {content: {}}\n"]
    builder.build()
    stored = generation.current(builder.layout)
    assert stored is not None
    assert [*parse_host(stored.declaration, "x").volumes] == ["content"]
    assert builder.workloads() == ["web"]


@pytest.mark.parametrize("verb", ["build", "push"])
def test_a_build_that_fails_leaves_no_image_and_no_workload(builder: Builder, verb: str) -> None:
    builder.fails = verb
    before = ImageStore(builder.layout.images).names()
    with pytest.raises(BuildFailedError, match=f"buildah {verb} ended with status 2"):
        builder.build(tags=["site:2"])
    assert ImageStore(builder.layout.images).names() == before
    assert builder.workloads() == ["web"]


def test_an_image_that_cannot_build_is_a_build_that_fails(builder: Builder) -> None:
    def missing(where: Target, command: Command, layout: HostLayout, descriptors: Sequence[int]) -> int:
        raise UnknownCommandError("'buildah' cannot be run", details="it is not found")

    copy, apply = builder.copy, builder.apply
    builder.service = BuildService(builder.layout, builder.machine, apply, execute=missing, copy=copy, make=_plain)
    with pytest.raises(BuildFailedError, match="'buildah' cannot be run") as caught:
        builder.build(tags=["site:2"])
    assert (caught.value.details, caught.value.exit_code) == ("it is not found", 1)
    assert builder.workloads() == ["web"]


@pytest.mark.parametrize("archive", [b"", b"no tar at all" * 100, bytes(1 << 20)])
def test_what_comes_out_is_checked_as_any_archive(builder: Builder, archive: bytes) -> None:
    builder.archive = archive
    with pytest.raises(HostctlError):
        builder.build(tags=["site:2"])
    assert not list((builder.layout.images / "tmp").iterdir())
    assert builder.workloads() == ["web"]


def test_names_that_the_archive_gives_itself_count_for_nothing(builder: Builder) -> None:
    index = json.loads((builder.made / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"io.containerd.image.name": "r.example/base:1"}
    (builder.made / "index.json").write_text(json.dumps(index))
    before = ImageStore(builder.layout.images).names()["r.example/base:1"]
    builder.build(tags=["site:2"])
    assert ImageStore(builder.layout.images).names()["r.example/base:1"] == before


def test_an_image_that_is_needed_is_the_hosts_own_and_said_if_it_cannot_be_given(builder: Builder) -> None:
    with pytest.raises(RecipeError):
        builder.build(needs=["r.example/base:1"])
    assert builder.got[0] == ("/build", ["context", "base-0"])
    assert builder.workloads() == ["web"]


def test_what_is_built_from_is_named_by_digest_where_that_is_wanted(builder: Builder) -> None:
    digest = f"sha256:{'1' * 64}"
    policy = f"registries: {{r.example: {{signatures: {{require: digest}}}}}}\n{HOST}".replace("web:1", f"web@{digest}")
    builder.apply(policy, "host.yaml", lambda text: None)
    with pytest.raises(BuildRequestError) as caught:
        builder.build(needs=["localhost/other:1", "r.example/base:1", f"r.example/base@{digest}", "r.example/b"])
    assert caught.value.details.splitlines() == [
        "r.example/base:1: images of r.example must be named by digest",
        "r.example/b: images of r.example must be named by digest",
    ]
    assert builder.got == []
    assert builder.workloads() == ["web"]


def test_what_is_built_from_is_signed_where_that_is_wanted(builder: Builder) -> None:
    body = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYnHHJNgTIqoSiDHfCDBepA83h9n4"
    key = json.dumps(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    policy = f"registries: {{'127.0.0.1:1': {{signatures: {{require: cosign, key: {key}}}}}}}\n"
    builder.apply(policy + HOST, "host.yaml", lambda text: None)
    store = ImageStore(builder.layout.images)
    base = store.find(ImageReference("r.example/base:1"))
    assert base is not None
    store.name(base, "127.0.0.1:1/base:1")
    with pytest.raises(PullError):  # it is here, but who knows of its signature is not
        builder.build(needs=["127.0.0.1:1/base:1"])
    assert builder.got == []


def test_what_does_not_stay_up_cannot_build(builder: Builder) -> None:
    builder.machine.active = "inactive"
    with pytest.raises(BuildFailedError, match="does not stay up") as caught:
        builder.build()
    assert "sleep infinity" in caught.value.hint
    assert builder.workloads() == ["web"]


def test_a_host_yaml_that_is_applied_meanwhile_ends_it(builder: Builder) -> None:
    def gone(mode: Mode, pid: int, path: str, descriptor: int) -> object:
        builder.apply(HOST, "host.yaml", lambda text: None)
        raise CopyError("the copy was cut off")

    builder.service = BuildService(builder.layout, builder.machine, builder.apply, copy=gone, make=_plain)
    with pytest.raises(CopyError):
        builder.build()
    assert builder.workloads() == ["web"]


def test_only_where_the_declaration_says_with_what(builder: Builder) -> None:
    builder.apply(HOST.replace("build:", "# build:"), "host.yaml", lambda text: None)
    with pytest.raises(BuildNotAllowedError):
        builder.build()


def test_what_a_dead_agent_left_is_removed(builder: Builder) -> None:
    stored = generation.current(builder.layout)
    assert stored is not None
    builder.apply(building.add(stored.declaration, building.new_name()), "x", lambda text: None)
    assert len(builder.workloads()) == 2
    builder.service.recover()
    assert builder.workloads() == ["web"]


def test_who_waits_for_the_lock_waits_for_a_while() -> None:
    tries = iter(range(10))

    def busy() -> int:
        if (number := next(tries)) < 1:
            raise BusyError("somebody else")
        return number

    assert patiently(busy) == 1
    with pytest.raises(BusyError):
        patiently(lambda: (_ for _ in ()).throw(BusyError("always")), 0)
