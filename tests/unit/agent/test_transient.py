"""Workloads that are run without being declared."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest

from hostctl.agent import generation, reconnect, transient, transient_methods
from hostctl.agent.apply import Notify
from hostctl.agent.bus import Call, Method
from hostctl.agent.caller import Caller, CallerGoneError
from hostctl.agent.exclusive import OvertakenError
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.image_service import PATIENCE
from hostctl.agent.machine import SystemdMachine, UnitState
from hostctl.agent.outcome import Outcome
from hostctl.agent.plan import plan
from hostctl.agent.transient import RunNotAllowedError, RunRequestError
from hostctl.config.load import parse_host
from hostctl.config.problems import DeclarationError
from hostctl.layout import HostLayout

HOST = """\
version: 1
hostname: web-1
allow_run: true
users: {ops: {ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMYGpFsHVBJWdxwXL5dcp5PrF1J6ZP1oPlDMX1A5UyGE ops"]}}
workloads: {web: {image: "r.example/web:1", env: {NO: "no"}, cpus: 0.5, ports: ["8080:80"], command: [a, "b c"]}}
volumes: {content: {}}
"""
DIGEST = f"sha256:{'1' * 64}"
IMAGE = json.dumps({"image": "r.example/tool:1", "args": ["report"], "restart": "no"})


def test_one_is_added_and_removed_and_nothing_else_changes() -> None:
    before = parse_host(HOST, "host.yaml")
    text = transient.add(HOST, "run-x", IMAGE)
    after = parse_host(text, "host.yaml")
    assert [str(action) for action in plan(before, after)] == ["+ workload run-x: declared"]
    assert transient.transients(after) == ("run-x",)
    assert parse_host(transient.remove(text, "run-x"), "host.yaml") == before


def test_only_where_the_declaration_allows_it() -> None:
    with pytest.raises(RunNotAllowedError):
        transient.add(HOST.replace("allow_run: true", "allow_run: false"), "run-x", IMAGE)
    off = parse_host(HOST.replace("allow_run: true", ""), "host.yaml")
    assert [action.subject for action in plan(off, parse_host(HOST, "host.yaml"))] == ["allow_run"]


@pytest.mark.parametrize(
    "request_text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"image": 1, "devices": ["/dev/kvm"]}',
        '{"image": "a", "capabilities": ["sys_admin"]}',
        '{"image": "a", "required": true}',
    ],
)
def test_what_a_request_may_not_say_is_refused(request_text: str) -> None:
    with pytest.raises((RunRequestError, DeclarationError)):
        transient.add(HOST, "run-x", request_text)


@pytest.mark.parametrize(
    "wanted",
    [
        {"image": "NOT AN IMAGE"},
        {"image": "r.example/x:1", "volumes": ["content:srv"]},
        {"image": "r.example/x:1", "volumes": "content:/srv"},
        {"image": "r.example/x:1", "networks": ["undeclared"]},
        {"image": "r.example/x:1", "user": "root"},
        {"image": "r.example/x:1", "pids": "many"},
    ],
)
def test_mistakes_are_those_of_a_declaration(wanted: dict[str, object]) -> None:
    with pytest.raises(DeclarationError):
        transient.add(HOST, "run-x", json.dumps(wanted))


def test_a_volume_that_somebody_made_is_declared_as_long_as_it_is_mounted() -> None:
    def wanted(*mounts: str) -> str:
        return json.dumps({"image": "r.example/tool:1", "volumes": list(mounts), "labels": {"a": "b"}})

    there = ("content", "scratch")
    with pytest.raises(RunRequestError, match="no volume 'nope'") as raised:
        transient.add(HOST, "run-x", wanted("nope:/x"), volumes=there)
    assert raised.value.hint == "hostctl volume create nope"
    one = transient.add(HOST, "run-x", wanted("scratch:/x", "content:/y:ro"), volumes=there)
    both = transient.add(one, "run-y", wanted("scratch:/x"), volumes=there)

    def declared(text: str) -> set[str]:
        return {str(name) for name in parse_host(text).volumes}

    assert declared(both) == {"content", "scratch"}
    workload = next(each for name, each in parse_host(both).workloads.items() if name == "run-x")
    assert workload.labels == {"a": "b", transient.VOLUMES: "scratch"}
    assert declared(transient.remove(both, "x")) == {"content", "scratch"}
    assert declared(transient.remove(transient.remove(both, "x"), "y")) == {"content"}
    forged = {"image": "r.example/tool:1", "labels": {transient.VOLUMES: "content"}}
    assert declared(transient.remove(transient.add(HOST, "run-x", json.dumps(forged)), "x")) == {"content"}
    renamed = transient.rename(one, "x", "z")
    assert parse_host(transient.remove(renamed, "z")) == parse_host(HOST)


def test_declared_ones_are_neither_replaced_nor_removed() -> None:
    taken = transient.add(HOST, "run-x", IMAGE)
    with pytest.raises(RunRequestError):
        transient.add(taken, "run-x", IMAGE)
    for name in ("web", "run-y"):
        with pytest.raises(RunRequestError):
            transient.remove(HOST, name)


def test_one_that_is_created_waits_for_its_start() -> None:
    after = parse_host(transient.add(HOST, "run-x", IMAGE, by_hand=True), "host.yaml")
    assert {str(name): workload.autostart for name, workload in after.workloads.items()} == {
        "web": True,
        "run-x": False,
    }


def test_another_name_is_all_that_a_renamed_one_gets() -> None:
    text = transient.add(HOST, "run-x", IMAGE, by_hand=True)
    before = parse_host(text, "host.yaml")
    for old, new in (("x", "y"), ("run-x", "run-y")):
        after = parse_host(transient.rename(text, old, new), "host.yaml")
        assert [str(action) for action in plan(before, after)] == [
            "- workload run-x: no longer declared",
            "+ workload run-y: declared",
        ]
        assert list(after.workloads.values()) == list(before.workloads.values())
    pinned = f"r.example/tool:1@sha256:{'1' * 64}"
    after = parse_host(transient.rename(text, "x", "y", image=pinned), "host.yaml")
    assert [workload.image for name, workload in after.workloads.items() if name == "run-y"] == [pinned]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("web", "y", "is declared"),
        ("nope", "y", "no workload 'run-nope'"),
        ("x", "x", "already"),
        ("x", "", "a new name is needed"),
    ],
)
def test_what_cannot_be_renamed_is_said(old: str, new: str, said: str) -> None:
    with pytest.raises(RunRequestError, match=said) as caught:
        transient.rename(transient.add(HOST, "run-x", IMAGE), old, new)
    assert ("change its name in host.yaml" in caught.value.hint) == (old == "web")


@pytest.mark.parametrize("new", ["X", "../x", "a b", "x" * 100, "\x1b"])
def test_a_name_that_is_none_is_refused(new: str) -> None:
    with pytest.raises(DeclarationError):
        transient.rename(transient.add(HOST, "run-x", IMAGE), "x", new)


class Applied:
    """Takes declarations as the transaction does, and keeps what it was told."""

    def __init__(self, layout: HostLayout) -> None:
        self.layout = layout
        self.starts: Mapping[str, bool] = {}
        self.live: frozenset[str] = frozenset()
        self.looked_up: Collection[str] | None = None
        self.wait = 0.0
        self.notes: tuple[str, ...] = ()
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while it is applied."""
        self.others: list[tuple[str, str]] = []
        """What somebody else replaces in the declaration in force, and by what, before the next turns."""

    def __call__(
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
        """Put it in force."""
        if self.others:
            old, new = self.others.pop(0)
            stored = generation.current(self.layout)
            assert stored is not None
            assert old in stored.declaration
            self._put(stored.declaration.replace(old, new), "host.yaml")
        stored = generation.current(self.layout)
        if base is not None and stored is not None and stored.record.number != base:
            raise OvertakenError(f"generation {stored.record.number} came between")
        self.starts, self.live, self.looked_up, self.wait = starts or {}, live, looked_up, wait
        require()
        self.meanwhile()
        return self._put(text, name)

    def _put(self, text: str, name: str) -> Outcome:
        number = max(generation.numbers(self.layout), default=0) + 1
        names = parse_host(text, name).workloads
        images = {str(each): Pin(reference="r.example/tool:1", digest=DIGEST) for each in names}
        record = Record(number=number, created="", release="1", declaration_sha256="", images=images)
        generation.store(self.layout, Content(record=record, declaration=text, etc={}, bundles={}, network=b"{}"))
        generation.put_in_force(self.layout, number)
        return Outcome(generation=number, former=number - 1, actions=(), notes=self.notes)


class Down(SystemdMachine):
    """A machine on which nothing, or everything, runs."""

    active = "inactive"
    started = True

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return the same for all."""
        fields = {"sub": "", "result": "", "main_pid": 0, "restarts": 0, "active_for": 0.0, "started": self.started}
        return {name: UnitState(name=name, active=self.active, **fields) for name in names}  # type: ignore[arg-type]


def test_what_ran_runs_again_under_its_new_name_and_from_the_same_image(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    machine, applied = Down(layout), Applied(layout)
    service = transient_methods.TransientService(layout, machine, applied)
    methods = {method.name: method for method in service.methods()}
    assert all(method.root_only and method.takes for method in methods.values())

    def ask(member: str, *arguments: str) -> dict[str, object]:
        call = Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)
        document: dict[str, object] = json.loads(methods[member].handler(call))
        return document

    with pytest.raises(RunNotAllowedError):
        ask("Create", "x", IMAGE)
    applied(HOST, "host.yaml", lambda text: None)
    assert ask("Create", "x", IMAGE)["workload"] == "run-x"
    assert applied.looked_up == {"run-x"}  # the tag of this one and no other, if it is to be
    assert ask("Rename", "x", "y")["former"] == "run-x"
    assert applied.looked_up == ()
    assert applied.starts == {"run-x": False, "run-y": False}
    machine.active = "active"
    ask("Rename", "y", "z")
    assert applied.starts == {"run-y": True, "run-z": True}
    stored = generation.current(layout)
    assert stored is not None
    workload = next(each for name, each in parse_host(stored.declaration).workloads.items() if name == "run-z")
    assert workload.image == f"r.example/tool:1@{DIGEST}"  # the store has no such name any more
    assert ask("Remove", "z")["workload"] == "run-z"


def test_only_what_is_restarted_when_it_ends_starts_at_boot() -> None:
    for restart, at_boot in {"no": False, "on-failure": True, "always": True, "unless-stopped": True}.items():
        text = transient.add(HOST, "run-x", json.dumps({"image": "r.example/tool:1", "restart": restart}))
        added = next(each for name, each in parse_host(text).workloads.items() if name == "run-x")
        assert added.autostart is at_boot, restart


def test_a_run_says_whether_it_started(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    machine, applied = Down(layout), Applied(layout)
    service = transient_methods.TransientService(layout, machine, applied)
    applied(HOST, "host.yaml", lambda text: None)
    applied.notes = ("workload run-x did not start: protocol", "another")

    def ask(name: str) -> dict[str, object]:
        call = Call(uid=0, arguments=(name, IMAGE), descriptors=(), notify=lambda text: None)
        document: dict[str, object] = json.loads(service.run(call))
        return document

    said = ask("x")
    assert (said["started"], said["notes"]) == (True, ["another"])
    assert applied.starts == {"run-x": True}
    machine.started = False
    applied.notes = ("workload run-y did not start: protocol",)
    said = ask("y")
    assert (said["started"], said["notes"]) == (False, list(applied.notes))


@pytest.mark.parametrize(
    ("member", "arguments"),
    [
        ("Run", ("y", IMAGE)),
        ("Create", ("y", IMAGE)),
        ("Rename", ("x", "y")),
        ("ConnectNetwork", ("front", "x", "{}")),
        ("DisconnectNetwork", ("back", "x", "")),
        ("Remove", ("x",)),
    ],
)
def test_what_somebody_else_applies_meanwhile_stays(tmp_path: Path, member: str, arguments: tuple[str, ...]) -> None:
    layout = HostLayout(root=tmp_path)
    machine, applied = Down(layout), Applied(layout)
    patient, hasty = (
        {each.name: each for each in transient_methods.TransientService(layout, machine, applied, seconds).methods()}
        for seconds in (PATIENCE, 0.0)
    )

    def ask(member: str, *arguments: str, methods: Mapping[str, Method] = patient) -> None:
        methods[member].handler(Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None))

    def hostname() -> str:
        stored = generation.current(layout)
        assert stored is not None
        return str(parse_host(stored.declaration).hostname)

    applied(f"{HOST}networks: {{back: {{internal: true}}, front: {{}}}}\n", "host.yaml", lambda text: None)
    ask("Run", "x", json.dumps({"image": "r.example/tool:1", "network": "private"}))
    ask("ConnectNetwork", "back", "x", "{}")
    applied.others = [("hostname: web-1", "hostname: web-2"), ("hostname: web-2", "hostname: web-3")]
    ask(member, *arguments)
    assert hostname() == "web-3"
    assert applied.wait == PATIENCE, "whoever else changes the machine is waited for"
    again = [("hostname: web-3", "hostname: web-4"), ("hostname: web-4", "hostname: web-3")] * 5
    applied.others = [*again]
    with pytest.raises(OvertakenError):
        ask("Run", "z", IMAGE, methods=hasty)
    applied.others += again
    ask("Run", "z", IMAGE)
    assert applied.others == []


class Gone(Caller):
    """One who has left the bus."""

    def __init__(self) -> None:
        super().__init__()
        self.leave()


@pytest.mark.parametrize("member", ["Run", "Create"])
def test_nothing_stays_of_what_nobody_waits_for(tmp_path: Path, member: str) -> None:
    layout = HostLayout(root=tmp_path)
    machine, applied = Down(layout), Applied(layout)
    methods = {each.name: each for each in transient_methods.TransientService(layout, machine, applied).methods()}
    applied(HOST, "host.yaml", lambda text: None)

    def ask(caller: Caller) -> None:
        call = Call(uid=0, arguments=("x", IMAGE), descriptors=(), notify=lambda text: None, caller=caller)
        methods[member].handler(call)

    def generations() -> int:
        return max(generation.numbers(layout))

    def workloads() -> set[str]:
        stored = generation.current(layout)
        assert stored is not None
        return {str(name) for name in parse_host(stored.declaration).workloads}

    with pytest.raises(CallerGoneError):
        ask(Gone())
    assert (workloads(), generations()) == ({"web"}, 1), "it was not even begun"
    leaving = Caller()
    applied.meanwhile = leaving.leave
    with pytest.raises(CallerGoneError):
        ask(leaving)
    assert (workloads(), generations()) == ({"web"}, 3), "it was made and removed"
    ask(Caller())
    assert workloads() == {"web", "run-x"}


def test_a_workload_runs_on_while_its_networks_change_unless_it_would_find_no_names(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    machine, applied = Down(layout), Applied(layout)
    methods = {each.name: each for each in transient_methods.TransientService(layout, machine, applied).methods()}

    def ask(member: str, *arguments: str) -> dict[str, object]:
        method = methods[member]
        assert (method.root_only, method.strings) == (True, len(method.takes))
        call = Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)
        document: dict[str, object] = json.loads(method.handler(call))
        return document

    applied(f"{HOST}networks: {{back: {{internal: true}}, front: {{}}}}\n", "host.yaml", lambda text: None)
    ask("Run", "x", json.dumps({"image": "r.example/tool:1", "network": "private"}))
    machine.active = "active"
    assert ask("ConnectNetwork", "back", "x", "{}") == {
        "workload": "run-x",
        "network": "back",
        "addresses": [],
        "notes": [],
    }
    assert applied.live == {"run-x"}
    with pytest.raises(reconnect.ConnectError, match="name server of workload run-x is in network default"):
        ask("DisconnectNetwork", "default", "x", "")
    ask("DisconnectNetwork", "default", "x", "force")
    assert applied.live == frozenset()
    assert ask("ConnectNetwork", "front", "run-x", "{}")["notes"] == [
        "it asks the network's name server from its next start on"
    ]
    machine.active = "inactive"
    ask("DisconnectNetwork", "front", "x", "")
    assert applied.live == {"run-x"}


def test_names() -> None:
    assert transient.full_name("x") == transient.full_name("run-x") == "run-x"
    assert transient.full_name("") != transient.full_name("")


def test_only_what_was_run_and_is_known_nowhere_is_spent() -> None:
    names = ("web", "web.2", "run-a", "run-b", "run-b.2", "run-build-0a1b2c3d", "running")
    assert transient.spent(names, {"run-a"}) == {"run-b", "run-b.2", "run-build-0a1b2c3d"}
    assert transient.spent(names, {"run-a", "run-b", "run-build-0a1b2c3d"}) == frozenset()
