"""Workloads that require others: what a change restarts and says of it, and what the verbs stop and start with whom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hostctl.agent import generation, pausing, requiring, unit_control
from hostctl.agent.bus import Call
from hostctl.agent.control import WorkloadControl
from hostctl.agent.generation import Pin, Record
from hostctl.agent.machine import SystemdMachine, UnitState, Verb
from hostctl.agent.plan import following, plan, with_images, with_requirers
from hostctl.agent.rolling import draft
from hostctl.agent.volumes import Volumes
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.workload import instance

BASE = """\
version: 1
hostname: web-1
configs: {tune: {content: old}}
volumes: {data: {}}
workloads:
  top:
    image: r.example/w:1
    depends_on: {shop: {requires: true}}
    init: false
    sockets: [8080]
  shop: {image: 'r.example/w:1', depends_on: {db: {requires: true}, cache: {}}}
  aside: {image: 'r.example/w:1', depends_on: {db: {}}}
  db: {image: 'r.example/db:1', configs: ['tune:/tune'], volumes: ['data:/data']}
  cache: {image: 'r.example/w:1', replicas: 2}
"""
FAST = BASE.replace("cache: {}}}", "cache: {}}, notify: true, update: {order: start-first}}").replace(
    "{shop: {requires: true}}", "{shop: {}}"
)
CACHED = BASE.replace("cache: {}}", "cache: {requires: true}}")


def declared(text: str) -> HostDeclaration:
    return parse_host(text, "host.yaml")


def test_who_requires_a_workload_comes_after_what_it_requires() -> None:
    known = declared(BASE).workloads
    assert requiring.requirers(known, ["db"]) == {"shop": ("db",), "top": ("shop",)}
    assert list(requiring.requirers(known, ["db"])) == ["shop", "top"]
    assert requiring.requirers(known, ["cache", "top", "aside", "gone"]) == {}
    assert requiring.requirers(known, ["db", "shop"]) == {"top": ("shop",)}
    assert requiring.requirers(declared(CACHED).workloads, ["db", "cache"])["shop"] == ("db", "cache")


def lines(before: str, after: str, images: Mapping[str, Pin] | None = None) -> list[str]:
    old, new = declared(before), declared(after)
    pinned = {name: Pin(reference=pin.reference, digest="sha256:old") for name, pin in (images or {}).items()}
    return [str(each) for each in with_requirers(with_images(plan(old, new), pinned, images or {}), old, new)]


WITH_IT = ["~ workload shop: it requires db", "~ workload top: it requires shop"]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("r.example/db:1", "r.example/db:2", "~ workload db: image r.example/db:1 → r.example/db:2"),
        ("content: old", "content: new", "~ workload db: it uses config tune"),
    ],
)
def test_a_change_of_what_is_required_restarts_who_requires_it_and_says_so(old: str, new: str, cause: str) -> None:
    assert lines(BASE, BASE.replace(old, new))[-3:] == [cause, *WITH_IT]


def test_so_does_a_new_image_under_its_name() -> None:
    said = lines(BASE, BASE, {"db": Pin(reference="r.example/db:1", digest="sha256:new")})
    assert said == ["~ workload db: image sha256:old → sha256:new", *WITH_IT]


def test_who_requires_what_changes_only_follows() -> None:
    old, new = declared(BASE), declared(BASE.replace("db:1", "db:2"))
    assert following(with_requirers(plan(old, new), old, new)) == {"shop", "top"}
    pins = [{"db": Pin(reference="r.example/db:1", digest=digest)} for digest in ("sha256:old", "sha256:new")]
    assert following(with_requirers(with_images((), *pins), old, old)) == {"db", "shop", "top"}


def test_one_that_changes_itself_is_named_once_with_its_own_reason() -> None:
    after = BASE.replace("shop: {image: 'r.example/w:1'", "shop: {image: 'r.example/w:2'").replace("db:1", "db:2")
    said = lines(BASE, after)
    assert [line.partition(": ")[0] for line in said] == ["~ workload shop", "~ workload db", "~ workload top"]
    assert said[0].endswith("image r.example/w:1 → r.example/w:2")


def test_what_is_only_started_before_another_restarts_nobody() -> None:
    assert len(lines(BASE, BASE.replace("replicas: 2", "replicas: 1"))) == 1
    assert lines(BASE, BASE) == []
    assert with_requirers((), None, declared(BASE)) == ()


def test_all_replicas_are_required_so_fewer_restart_who_requires_them_and_more_do_not() -> None:
    fewer = lines(CACHED, CACHED.replace("replicas: 2", "replicas: 1"))
    assert fewer[1:] == ["~ workload shop: it requires cache", WITH_IT[1]]
    assert len(lines(CACHED, CACHED.replace("replicas: 2", "replicas: 3"))) == 1


def test_one_that_is_removed_or_renamed_has_changed_who_required_it() -> None:
    renamed = BASE.replace("  db: {image", "  store: {image").replace("{db: ", "{store: ")
    assert [line.partition(": ")[0] for line in lines(BASE, renamed)] == [
        "- workload db",
        "~ workload shop",
        "~ workload aside",
        "+ workload store",
        "~ workload top",
    ]


def letter(before: str, after: str) -> str:
    old, new = declared(before), declared(after)
    record = Record(number=1, created="", release="1", declaration_sha256="", instances={"shop": "a"})
    actions = with_requirers(plan(old, new), old, new)
    return draft(2, actions, old=old, new=new, record=record).instances["shop"]


def test_a_workload_is_not_started_beside_itself_when_it_is_stopped_with_what_it_requires() -> None:
    changed = FAST.replace("shop: {image: 'r.example/w:1'", "shop: {image: 'r.example/w:2'")
    assert letter(FAST, changed) == "b"
    assert letter(FAST, FAST.replace("db:1", "db:2")) == "a"
    assert letter(FAST, changed.replace("db:1", "db:2")) == "a"
    assert letter(FAST, changed.replace("db: {requires: true}, ", "").replace("db:1", "db:2")) == "a"
    assert letter(FAST, changed.replace("replicas: 2", "replicas: 1")) == "b"


def test_a_start_is_one_of_all_that_is_required_for_it_at_any_distance() -> None:
    known = declared(BASE).workloads
    assert requiring.needed(known, ["top"]) == ("shop", "db")
    assert requiring.needed(known, ["shop"]) == ("db",)
    assert requiring.needed(known, ["db"]) == requiring.needed(known, ["aside"]) == ()
    third = f"{BASE}  third: {{image: 'r.example/w:1', depends_on: {{shop: {{}}}}}}\n"
    assert requiring.needed(declared(third).workloads, ["third"]) == ("db",)  # shop is started by systemd


class Machine(SystemdMachine):
    """A machine that notes what is done to units, and does it."""

    def __init__(self, layout: HostLayout, known: Sequence[str]) -> None:
        super().__init__(layout)
        self.known, self.running = known, set(known)
        self.paused: set[str] = set()
        self.queued: set[str] = set()
        self.tried: set[str] = set()
        self.forgiven: list[str] = []
        self.done: list[str] = []

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Do it."""
        del block
        if verb == "reset-failed":
            self.forgiven += names
            return
        self.done += [f"{verb} {name.removeprefix('workload-').removesuffix('.service')}" for name in names]
        self.queued -= set(names)
        self.running = self.running - set(names) if verb == "stop" else self.running | set(names)

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Say what runs."""
        return {name: self._state(name) for name in names if name in self.known}

    def _state(self, name: str) -> UnitState:
        up = name in self.running
        return UnitState(
            name=name,
            active="activating" if name in self.tried else "active" if up else "inactive",
            sub="",
            result="",
            main_pid=int(up),
            restarts=0,
            active_for=0.0,
            paused=name in self.paused,
            queued=name in self.queued,
        )


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    folder = layout.generations / "1"
    (folder / "bundles/db").mkdir(parents=True)
    names = ("top", "shop", "aside", "db", "cache")
    images = {name: Pin(reference=f"r.example/{name}:1", digest="sha256:0") for name in names}
    record = Record(
        number=1, created="", release="1", declaration_sha256="", images=images, replicas={"cache": 2}, ranges={}
    )
    (folder / "generation.json").write_bytes(generation.encode(record))
    (folder / "host.yaml").write_text(BASE)
    mounts = [{"destination": "/data", "type": "bind", "source": "/var/lib/hostctl/volumes/data"}]
    for name in names:
        (folder / "bundles" / name).mkdir(exist_ok=True)
        (folder / "bundles" / name / "config.json").write_text(json.dumps({"mounts": mounts if name == "db" else []}))
    layout.current.symlink_to("generations/1")
    (layout.volumes / "data").mkdir(parents=True)
    layout.runtime.mkdir(parents=True)
    return layout


@pytest.fixture
def machine(layout: HostLayout) -> Machine:
    keys = [instance.key(name, "") for name in ("top", "shop", "aside", "db", "cache", "cache.2")]
    return Machine(layout, ["workload-top.socket", *(f"workload-{key}.service" for key in keys)])


def call(*arguments: str) -> Call:
    return Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)


def test_who_requires_it_is_stopped_before_it_and_started_after_it(layout: HostLayout, machine: Machine) -> None:
    verbs = WorkloadControl(layout, machine)
    verbs.stop(call("db", ""))
    # A connection would start it again, and with it all the others.
    assert machine.done == ["stop top.socket", "stop top", "stop shop", "stop db"]
    machine.done.clear()
    verbs.start(call("db"))
    assert machine.done == ["start db", "start shop", "start top.socket"]
    machine.done.clear()
    verbs.start(call("db"))
    assert machine.done == ["start db"]


def test_who_was_stopped_by_somebody_stays_so(layout: HostLayout, machine: Machine) -> None:
    verbs = WorkloadControl(layout, machine)
    verbs.stop(call("shop", ""))
    verbs.start(call("top"))
    assert machine.done[-4:] == ["start top.socket", "start shop", "start db", "start top"]
    verbs.stop(call("top", ""))
    verbs.stop(call("db", ""))
    machine.done.clear()
    verbs.start(call("db"))
    assert machine.done == ["start db", "start shop"]
    verbs.stop(call("db", ""))
    verbs.stop(call("shop", ""))
    machine.done.clear()
    verbs.start(call("db"))
    assert machine.done == ["start db"]


def test_a_start_of_one_that_was_stopped_with_it_brings_the_others_back(layout: HostLayout, machine: Machine) -> None:
    verbs = WorkloadControl(layout, machine)
    verbs.stop(call("db", ""))
    machine.done.clear()
    verbs.start(call("shop"))
    assert machine.done == ["start db", "start shop", "start top.socket"]
    assert not list((layout.runtime / "stopped-with").iterdir())


def test_who_was_started_too_early_meanwhile_is_started_anew(layout: HostLayout, machine: Machine) -> None:
    verbs = WorkloadControl(layout, machine)
    verbs.stop(call("db", ""))
    machine.done.clear()
    machine.tried = {"workload-shop.service"}
    verbs.start(call("db"))
    assert machine.done == ["start db", "restart shop", "start top.socket"]


def test_who_still_waits_for_it_to_be_healthy_is_started_after_it_again(layout: HostLayout, machine: Machine) -> None:
    verbs = WorkloadControl(layout, machine)
    machine.running = {"workload-db.service"}
    machine.queued = {"workload-shop.service"}
    verbs.stop(call("db", ""))
    assert machine.done == ["stop shop", "stop db"]
    machine.done.clear()
    verbs.start(call("db"))
    assert machine.done == ["start db", "start shop"]


def test_a_change_forgets_with_whom_it_was_stopped(layout: HostLayout, machine: Machine) -> None:
    WorkloadControl(layout, machine).stop(call("db", ""))
    machine.forget_outcome("shop.a")
    assert [path.name for path in (layout.runtime / "stopped-with").iterdir()] == ["top"]


@pytest.mark.parametrize("within", ["", "3"])
def test_who_requires_replicas_is_restarted_once_and_not_with_each(
    layout: HostLayout, machine: Machine, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    def impatient(verb: str, unit: str, seconds: float) -> None:
        assert seconds == 3
        machine.units(verb, [unit])  # type: ignore[arg-type]  # stop or restart

    monkeypatch.setattr(unit_control, "stop_within", impatient)
    (layout.current / "host.yaml").write_text(CACHED)
    WorkloadControl(layout, machine).restart(call("cache", within))
    restarts = [each for each in machine.done if each.startswith("restart")]
    assert sorted(restarts) == ["restart cache", "restart cache.2"]
    first, last = (machine.done.index(each) for each in ("restart cache", "start shop"))
    assert first < last
    assert machine.done.count("start shop") == 1


def test_paused_ones_are_let_run_so_that_they_can_end(
    layout: HostLayout, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed: list[str] = []
    monkeypatch.setattr(unit_control, "thaw", thawed.append)
    machine.paused = {"workload-shop.service"}
    verbs = WorkloadControl(layout, machine)
    verbs.restart(call("db", ""))
    assert thawed == ["workload-shop.service"]
    # systemd restarts whoever requires it; that is waited for.
    assert machine.done == ["restart db", "start top", "start shop"]
    assert machine.forgiven == ["workload-top.service", "workload-shop.service"]
    verbs.stop(call("db", ""))
    assert thawed == ["workload-shop.service"] * 2


def test_each_has_the_given_seconds_to_itself(
    layout: HostLayout, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def impatient(verb: str, unit: str, seconds: float) -> None:
        asked.append(f"{verb} {unit} {seconds:g}")
        mark = layout.runtime / "stopped/workload.db"
        assert verb != "restart" or mark.read_text().split()[-1] == "workload-shop.service"

    monkeypatch.setattr(unit_control, "stop_within", impatient)
    verbs = WorkloadControl(layout, machine)
    verbs.restart(call("db", "3"))
    assert asked == [f"stop workload-{name}.service 3" for name in ("top", "shop")] + ["restart workload-db.service 3"]
    assert machine.done == ["stop top.socket", "start top.socket", "start top", "start shop"]
    asked.clear()
    verbs.stop(call("db", "0"))
    assert asked == [f"stop workload-{name}.service 0" for name in ("top", "shop", "db")]


def test_what_a_killed_agent_stopped_for_a_restart_is_started(layout: HostLayout, machine: Machine) -> None:
    mark = layout.runtime / "stopped/workload.db"
    mark.parent.mkdir(parents=True)
    mark.write_text("workload-shop.service")
    assert pausing.recover(layout, machine) == ("workload.db",)
    assert machine.done == ["start shop"]


def test_a_restore_of_a_volume_stops_and_starts_who_requires_its_user(layout: HostLayout, machine: Machine) -> None:
    volumes = Volumes(layout, machine)
    assert volumes._units("data", live=True) == tuple(
        f"workload-{each}" for each in ("top.socket", "db.service", "top.service", "shop.service")
    )
    machine.running = {"workload-db.service"}
    assert volumes._units("data", live=True) == ("workload-db.service",)
