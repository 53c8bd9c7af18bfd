"""Workloads that change beside themselves: what is decided, and every order of steps, cuts included, on a fake machine.

The machine keeps units and who gets the traffic: a pass reads the plan that is in force, as the real one does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hostctl.agent import apply as transaction
from hostctl.agent import control, exclusive, execution, generation, leaving, network_view, overview, pending, rolling
from hostctl.agent.apply import ApplyError, Context
from hostctl.agent.bus import Call
from hostctl.agent.exclusive import BusyError
from hostctl.agent.generation import Content, Draft, Pin, Record, Renewed, Stored
from hostctl.agent.machine import STOPPED_WITH, UnitState, Verb
from hostctl.agent.plan import plan
from hostctl.agent.rolling import Roll
from hostctl.agent.service import HostService
from hostctl.agent.tree import Link, Tree, text
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.network import apply as network_pass
from hostctl.network import declared, document
from hostctl.network.allocate import Pools
from hostctl.workload import instance

BASE = """
version: 1
hostname: web-1
networks: {front: {}}
workloads:
  site:
    image: registry.example/site:1
    ports: ['8080:80']
    networks: [front]
    notify: true
    update: {order: start-first, drain: 7s}
  db: {image: registry.example/db:1}
"""
NEXT = BASE.replace("site:1", "site:2")
BAD = BASE.replace("site:1", "site:bad")
MANUAL = BASE.replace("    notify: true\n", "    notify: true\n    autostart: false\n")
OFF = BASE.replace("    update: {order: start-first, drain: 7s}\n", "")


class PowerCutError(BaseException):
    """The agent was killed here."""


@dataclass
class FakeMachine:
    """Runs what it is told; ``served`` is which instance published ports led to, after each pass."""

    layout: HostLayout
    etc: Path | None = None
    loaded: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    pinned: frozenset[str] = frozenset()
    cut_at: str = ""
    stopped: set[str] = field(default_factory=set)
    """Units that somebody has stopped, a change or a person."""

    def _did(self, what: str) -> None:
        self.log.append(what)
        if self.cut_at and what.startswith(self.cut_at):
            raise PowerCutError(what)

    def lay_etc(self, layer: Path | None, *, over: Path | None = None) -> None:
        self._did("lay")
        self.etc = layer

    def cover(self, folder: Path, source: Path) -> None:
        raise AssertionError("nothing here has replicas")

    def uncover(self, folder: Path) -> None:
        raise AssertionError("nothing here has replicas")

    def reload_units(self) -> None:
        folder = self.etc / "systemd/system" if self.etc else None
        names = sorted(folder.glob("workload-*")) if folder and folder.is_dir() else []
        self.loaded = {unit.name: unit.read_text() for unit in names if not unit.is_symlink()}

    def reload_network(self, *, block: bool = True) -> None:
        pass

    def refresh_workload_network(self, *, block: bool = True) -> None:
        self._did("pass")
        wanted = network_pass.in_force(self.layout)
        self.pinned = frozenset(each.key for each in wanted.workloads)
        (site,) = [each.key for each in wanted.workloads if each.name == "site" and not each.standby]
        self.served.append(site)

    def apply_sysctl(self) -> Sequence[str]:
        return ()

    def make_homes(self) -> None:
        pass

    def set_hostname(self, name: str) -> None:
        pass

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        for name in names:
            self._did(f"{verb} {name}")
            if verb in ("stop", "reset-failed"):
                self.stopped |= {name} if verb == "stop" else set()
                self.running.pop(name, None)
            elif name not in self.running or verb == "restart":
                self.running[name] = self.loaded[name]

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        return {name: self._state(name) for name in names if name in self.loaded or name in self.running}

    def _state(self, name: str) -> UnitState:
        up = name in self.running and "bad" not in self.running[name]
        down = name in self.stopped and name not in self.running
        return UnitState(
            name=name,
            active="active" if up else "inactive" if down else "failed",
            sub="",
            result="success" if up or down else "exit-code",
            main_pid=1,
            restarts=0,
            active_for=9.0,
        )

    def workload_health(self, name: str) -> str:
        return ""

    def forget_outcome(self, name: str) -> None:
        (self.layout.runtime / STOPPED_WITH / instance.name_of(name)).unlink(missing_ok=True)

    def forget_workload(self, name: str) -> None:
        self._did(f"forget {name}")


def stage(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
    names = [str(name) for name in declaration.workloads]
    record = Record(
        number=draft.number,
        created="2026-01-01T00:00:00Z",
        release="1",
        declaration_sha256="",
        images={
            str(name): draft.renewed.get(str(name), Pin(reference=str(each.image), digest=str(each.image)))
            for name, each in declaration.workloads.items()
        },
        ranges={name: number for number, name in enumerate(sorted(names))},
        instances=draft.instances,
    )
    units: dict[str, object] = {}
    for name in names:
        key = record.key(name)
        units[f"systemd/system/workload-{key}.service"] = text(f"image={record.images[name].digest}\n")
        if key != name:
            units[f"systemd/system/workload-{name}.service"] = Link(target=f"workload-{key}.service")
    old = document.decode((former.path / "network.json").read_bytes()) if former else None
    network = declared.plan(declaration, record.ranges, old, Pools(), draft.instances, draft.leaving)
    stays: Tree = leaving.tree(former, draft.leaving, {}) if former else {}
    return Content(
        record=record,
        declaration=source,
        etc={**units, **stays},  # type: ignore[dict-item]  # files and links only
        bundles={record.key(name): {"config.json": b"{}"} for name in names}
        | dict(leaving.bundles(former, draft.leaving) if former else {}),
        network=document.encode(network),
    )


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def machine(layout: HostLayout) -> FakeMachine:
    """A machine on which the first generation runs, with what happened until then forgotten."""
    made = FakeMachine(layout=layout)
    transaction.apply(BASE, "host.yaml", context(layout, made))
    made.log.clear()
    made.served.clear()
    return made


def context(layout: HostLayout, machine: FakeMachine, *, booting: bool = False) -> Context:
    def pause(seconds: float) -> None:
        machine.log.append(f"drain {seconds:g}")

    return Context(layout=layout, machine=machine, stage=stage, release="1", booting=booting, pause=pause)


def current(layout: HostLayout) -> Record:
    stored = generation.current(layout)
    assert stored is not None
    return stored.record


def resolve(layout: HostLayout, machine: FakeMachine, *, booting: bool = False) -> str:
    machine.cut_at = ""
    machine.log.clear()
    with exclusive.lock(layout):
        return transaction.resolve(context(layout, machine, booting=booting))


def test_the_new_one_takes_over_before_the_old_one_leaves(layout: HostLayout, machine: FakeMachine) -> None:
    assert current(layout).instances == {"site": "a"}
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert machine.log == [
        "forget site.b",
        "lay",
        "pass",
        "start workload-site.b.service",
        "pass",
        "drain 7",
        "stop workload-site.a.service",
        "reset-failed workload-site.a.service",
        "forget site.a",
        "pass",
    ]
    assert machine.served == ["site.a", "site.b", "site.b"]
    assert machine.pinned == {"site.b", "db"}
    assert current(layout).instances == {"site": "b"}
    assert machine.running["workload-site.b.service"] == "image=registry.example/site:2\n"
    alias = layout.current / "etc/systemd/system/workload-site.service"
    assert alias.readlink() == Path("workload-site.b.service")
    assert not layout.changing_network.exists()


def test_they_take_turns_and_a_generation_without_a_change_has_only_the_live_one(
    layout: HostLayout, machine: FakeMachine
) -> None:
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert (layout.current / "bundles/site.a/config.json").is_file()  # the old one could have been started again
    transaction.apply(NEXT.replace("db:1", "db:2"), "host.yaml", context(layout, machine))
    units = {path.name for path in (layout.current / "etc/systemd/system").glob("workload-site*")}
    assert units == {"workload-site.service", "workload-site.b.service"}
    assert not (layout.current / "bundles/site.a").exists()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert current(layout).instances == {"site": "a"}
    assert "workload-site.b.service" not in machine.running


def test_one_that_does_not_become_healthy_leaves_the_old_one_alone(layout: HostLayout, machine: FakeMachine) -> None:
    running = machine.running["workload-site.a.service"]
    with pytest.raises(ApplyError) as caught:
        transaction.apply(BAD, "host.yaml", context(layout, machine))
    assert "generation 2 was taken back" in caught.value.brief
    assert "workload site: failed" in caught.value.details
    assert set(machine.served) == {"site.a"}
    assert machine.running["workload-site.a.service"] is running
    assert not any(line.startswith(("stop workload-site.a", "restart", "drain")) for line in machine.log)
    assert "start workload-site.a.service" not in machine.log
    assert "workload-site.b.service" not in machine.running
    assert machine.pinned == {"site.a", "db"}
    assert current(layout).instances == {"site": "a"}
    assert not layout.changing_network.exists()
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert current(layout).instances == {"site": "b"}


def test_what_fails_after_the_traffic_moved_gives_it_back(layout: HostLayout, machine: FakeMachine) -> None:
    with pytest.raises(ApplyError):
        transaction.apply(
            NEXT.replace("{image: registry.example/db:1}", "{image: 'registry.example/bad:1', required: true}"),
            "host.yaml",
            context(layout, machine),
        )
    assert machine.served == ["site.a", "site.b", "site.a", "site.a"]
    assert machine.log.index("drain 7") < machine.log.index("stop workload-site.b.service")
    assert machine.running["workload-site.a.service"] == "image=registry.example/site:1\n"


@pytest.mark.parametrize("moment", ["lay", "pass", "start workload-site.b"])
def test_an_agent_that_is_killed_before_it_was_sure_leaves_the_old_one(
    layout: HostLayout, machine: FakeMachine, moment: str
) -> None:
    machine.cut_at = moment
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert "went back to 1" in resolve(layout, machine)
    assert "stop workload-site.a.service" not in machine.log
    assert machine.served[-1] == "site.a"
    assert machine.pinned == {"site.a", "db"}
    assert not layout.network_due.exists()
    assert machine.running["workload-site.a.service"] == "image=registry.example/site:1\n"
    assert "workload-site.b.service" not in machine.running
    assert not layout.changing_network.exists()
    assert resolve(layout, machine) == ""


def cut_after_the_move(layout: HostLayout, machine: FakeMachine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply a change beside itself and kill the agent when new connections lead to the new instance."""
    make, already = FakeMachine.refresh_workload_network, len(machine.served)

    def cut(self: FakeMachine, *, block: bool = True) -> None:
        make(self, block=block)
        if len(self.served) == already + 2:
            raise PowerCutError("moved")

    with monkeypatch.context() as patched:
        patched.setattr(FakeMachine, "refresh_workload_network", cut)
        with pytest.raises(PowerCutError):
            transaction.apply(text, "host.yaml", context(layout, machine))
    assert machine.served[-1] == "site.b"
    machine.log.clear()
    machine.served.clear()


def drained(machine: FakeMachine) -> list[float]:
    return [float(line.split()[1]) for line in machine.log if line.startswith("drain")]


def test_an_agent_that_is_killed_as_it_goes_back_counts_the_time_of_connections_from_then(
    layout: HostLayout, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_after_the_move(layout, machine, NEXT, monkeypatch)
    machine.cut_at = "pass"
    with pytest.raises(PowerCutError), exclusive.lock(layout):
        transaction.resolve(context(layout, machine))
    assert machine.served == []
    then = layout.changing_network.stat().st_mtime - 4
    os.utime(layout.changing_network, (then, then))
    assert "went back to 1" in resolve(layout, machine)
    assert machine.log.index("pass") < machine.log.index("stop workload-site.b.service")
    assert machine.served[0] == "site.a"
    [seconds] = drained(machine)
    assert 2 < seconds <= 3


def test_the_start_of_an_agent_that_goes_back_waits_for_long_connections_only_so_long(
    layout: HostLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, long = FakeMachine(layout=layout), BASE.replace("drain: 7s", "drain: 10m")
    transaction.apply(long, "host.yaml", context(layout, machine))
    cut_after_the_move(layout, machine, long.replace("site:1", "site:2"), monkeypatch)
    assert "went back" in resolve(layout, machine)
    assert drained(machine) == [rolling.PATIENCE]


def test_a_boot_after_a_cut_starts_the_old_one_again(layout: HostLayout, machine: FakeMachine) -> None:
    machine.cut_at = "start workload-site.b"
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    layout.changing_network.unlink()  # it was in memory
    machine.running = {"workload-site.b.service": machine.loaded["workload-site.b.service"]}
    assert "went back to 1" in resolve(layout, machine, booting=True)
    assert "workload-site.b.service" not in machine.running
    assert machine.running["workload-site.a.service"] == "image=registry.example/site:1\n"
    assert machine.served[-1] == "site.a"


@pytest.mark.parametrize("moment", ["stop workload-site.a.service", "forget site.a"])
def test_an_agent_that_is_killed_while_the_old_one_leaves_has_it_leave_at_its_next_start(
    layout: HostLayout, machine: FakeMachine, moment: str
) -> None:
    machine.cut_at = moment
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert pending.read(layout) is None
    assert transaction.unsettled(layout)
    assert resolve(layout, machine) == "what was left of a change is gone: site.a"
    assert not transaction.unsettled(layout)
    assert machine.served[-1] == "site.b"
    assert machine.pinned == {"site.b", "db"}
    assert not any("site.a" in name for name in machine.running)
    assert not layout.changing_network.exists()
    assert all(0 < seconds <= 7 for seconds in drained(machine))


def test_an_agent_that_is_killed_before_the_last_pass_leaves_word_that_one_is_due(
    layout: HostLayout, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, already = FakeMachine.refresh_workload_network, len(machine.served)

    def cut(self: FakeMachine, *, block: bool = True) -> None:
        if len(self.served) == already + 2:
            raise PowerCutError("pass")
        make(self, block=block)

    with monkeypatch.context() as patched:
        patched.setattr(FakeMachine, "refresh_workload_network", cut)
        with pytest.raises(PowerCutError):
            transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert not layout.changing_network.exists()
    assert "site.a" in machine.pinned
    agent = HostService(layout, machine)
    agent.recover()
    assert machine.pinned == {"site.b", "db"}
    passes = len(machine.served)
    agent.recover()
    assert len(machine.served) == passes


def test_a_workload_that_was_stopped_first_so_far_is_once_more(layout: HostLayout) -> None:
    machine = FakeMachine(layout=layout)
    transaction.apply(OFF, "host.yaml", context(layout, machine))
    machine.log.clear()
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert machine.log.index("stop workload-site.service") < machine.log.index("start workload-site.a.service")
    machine.log.clear()
    transaction.apply(OFF, "host.yaml", context(layout, machine))
    assert machine.log.index("stop workload-site.a.service") < machine.log.index("start workload-site.service")
    assert current(layout).instances == {}


def test_a_change_of_its_network_stops_it_first(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(NEXT.replace("front: {}", "front: {mtu: 1400}"), "host.yaml", context(layout, machine))
    assert current(layout).instances == {"site": "a"}
    assert machine.log.index("stop workload-site.a.service") < machine.log.index("start workload-site.a.service")


def test_a_boot_keeps_the_live_one(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    newer = replace(context(layout, machine, booting=True), release="2")
    transaction.apply(NEXT, "host.yaml", newer)
    assert current(layout).instances == {"site": "b"}
    assert "restart workload-site.b.service" in machine.log


def test_a_renewed_image_is_a_change_that_must_become_healthy(layout: HostLayout, machine: FakeMachine) -> None:
    pin = Pin(reference="registry.example/site:1", digest="sha256:new")
    outcome = transaction.apply(BASE, "host.yaml", context(layout, machine), Renewed(generation=1, pins={"site": pin}))
    assert [str(action) for action in outcome.actions] == [
        "~ workload site: image registry.example/si → sha256:new",
    ]
    assert current(layout).images["site"] == pin
    assert machine.served == ["site.a", "site.b", "site.b"]
    bad = Pin(reference="registry.example/db:1", digest="sha256:bad")
    with pytest.raises(ApplyError):
        transaction.apply(BASE, "host.yaml", context(layout, machine), Renewed(generation=2, pins={"db": bad}))
    with pytest.raises(BusyError, match="came between"):
        transaction.apply(BASE, "host.yaml", context(layout, machine), Renewed(generation=1, pins={"site": bad}))
    assert current(layout).images["db"].digest == "registry.example/db:1"
    assert machine.running["workload-db.service"] == "image=registry.example/db:1\n"


def test_only_a_changed_workload_changes_its_letter() -> None:
    old, new = parse_host(BASE, "x"), parse_host(NEXT, "x")
    record = Record(number=1, created="", release="1", declaration_sha256="", instances={"site": "b"})
    made = rolling.draft(2, plan(old, new), old=old, new=new, record=record)
    assert (made.instances, made.leaving) == ({"site": "a"}, ("site.b",))
    kept = rolling.draft(2, (), old=old, new=old, record=record)
    assert (kept.instances, kept.leaving) == ({"site": "b"}, ())
    first = rolling.draft(1, plan(None, new), old=None, new=new, record=None)
    assert (first.instances, first.leaving) == ({"site": "a"}, ())


def test_between_two_generations_only_both_letters_count() -> None:
    one = Record(number=1, created="", release="1", declaration_sha256="", instances={"x": "a", "y": "a"})
    two = replace(one, instances={"x": "b", "z": "a"})
    assert rolling.between(one, two) == (Roll(name="x", old="x.a", new="x.b"),)
    assert rolling.between(None, two) == ()
    assert json.loads(generation.encode(two))["instances"] == {"x": "b", "z": "a"}
    assert generation.decode(generation.encode(two)) == two


def test_nobody_waits_for_connections_to_what_does_not_run(layout: HostLayout, machine: FakeMachine) -> None:
    machine.running.pop("workload-site.a.service")
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert "drain 7" not in machine.log
    assert machine.served[-1] == "site.b"


def manual(layout: HostLayout, *, up: bool) -> FakeMachine:
    """Return a machine with a workload that is started by hand only, and runs or does not."""
    made = FakeMachine(layout=layout)
    transaction.apply(MANUAL, "host.yaml", context(layout, made))
    assert "workload-site.a.service" not in made.running
    if up:
        made.units("start", ["workload-site.a.service"])
    made.log.clear()
    made.served.clear()
    return made


def test_one_that_is_started_by_hand_only_and_does_not_run_is_changed_and_not_waited_for(layout: HostLayout) -> None:
    machine = manual(layout, up=False)
    transaction.apply(MANUAL.replace("site:1", "site:2"), "host.yaml", context(layout, machine))
    assert (current(layout).number, current(layout).instances) == (2, {"site": "a"})
    assert not [line for line in machine.log if line.startswith(("start", "drain"))]
    pin = Pin(reference="registry.example/site:2", digest="sha256:new")
    renewed = Renewed(generation=2, pins={"site": pin})
    transaction.apply(MANUAL.replace("site:1", "site:2"), "host.yaml", context(layout, machine), renewed)
    assert (current(layout).number, current(layout).images["site"]) == (3, pin)
    assert not any("site" in name for name in machine.running)


def test_one_that_is_started_by_hand_only_and_runs_changes_beside_itself(layout: HostLayout) -> None:
    machine = manual(layout, up=True)
    transaction.apply(MANUAL.replace("site:1", "site:2"), "host.yaml", context(layout, machine))
    assert current(layout).instances == {"site": "b"}
    assert machine.running["workload-site.b.service"] == "image=registry.example/site:2\n"
    assert machine.served[-1] == "site.b"


@pytest.mark.parametrize(("up", "live"), [(True, "b"), (False, "a")])
def test_one_that_is_stopped_or_started_while_images_are_pulled_is_so_afterwards(
    layout: HostLayout, up: bool, live: str
) -> None:
    machine = manual(layout, up=up)

    def slow(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        machine.units("stop" if up else "start", ["workload-site.a.service"])
        return stage(source, declaration, former, draft)

    where = replace(context(layout, machine), stage=slow)
    transaction.apply(MANUAL.replace("site:1", "site:2"), "host.yaml", where)
    assert current(layout).instances == {"site": live}
    site = {name: text for name, text in machine.running.items() if "site" in name}
    assert site == ({} if up else {"workload-site.a.service": "image=registry.example/site:2\n"})


REQUIRING = BASE + "  shop: {image: 'registry.example/shop:1', depends_on: {db: {requires: true}}}\n"


def renewal(layout: HostLayout, name: str, digest: str = "sha256:new") -> Renewed:
    """Return another image for a workload."""
    record = current(layout)
    pin = Pin(reference=record.images[name].reference, digest=digest)
    return Renewed(generation=record.number, pins={name: pin})


def by_hand(layout: HostLayout, machine: FakeMachine, verb: str, name: str) -> None:
    """Start or stop a workload as a person does, and forget what was done."""
    verbs = control.WorkloadControl(layout, machine)
    verbs.stop(call(name, "")) if verb == "stop" else verbs.start(call(name))
    machine.log.clear()


def up(machine: FakeMachine) -> set[str]:
    """Return the workloads that run."""
    names = {name.removeprefix("workload-").removesuffix(".service") for name in machine.running}
    return {instance.name_of(name) for name in names if not name.endswith(".secrets")}


@pytest.mark.parametrize("name", ["site", "db"])
def test_what_was_stopped_gets_another_image_and_stays_down_until_it_is_changed_itself(
    layout: HostLayout, machine: FakeMachine, name: str
) -> None:
    by_hand(layout, machine, "stop", name)
    transaction.apply(BASE, "host.yaml", context(layout, machine), renewal(layout, name))
    assert (current(layout).number, current(layout).images[name].digest) == (2, "sha256:new")
    assert current(layout).instances == {"site": "a"}
    assert not [line for line in machine.log if line.startswith(("start", "drain"))]
    assert up(machine) == {"site", "db"} - {name}
    transaction.apply(BASE.replace(f"{name}:1", f"{name}:2"), "host.yaml", context(layout, machine))
    assert up(machine) == {"site", "db"}


def test_what_was_stopped_stays_down_when_what_it_requires_changes(layout: HostLayout) -> None:
    machine = FakeMachine(layout=layout)
    transaction.apply(REQUIRING, "host.yaml", context(layout, machine))
    by_hand(layout, machine, "stop", "shop")
    transaction.apply(REQUIRING, "host.yaml", context(layout, machine), renewal(layout, "db"))
    assert machine.running["workload-db.service"] == "image=sha256:new\n"
    changed = REQUIRING.replace("db:1", "db:2")
    transaction.apply(changed, "host.yaml", context(layout, machine))
    assert machine.running["workload-db.service"] == "image=registry.example/db:2\n"
    assert up(machine) == {"site", "db"}
    transaction.apply(changed.replace("shop:1", "shop:2"), "host.yaml", context(layout, machine))
    assert up(machine) == {"site", "db", "shop"}


def test_what_was_stopped_with_another_is_started_with_that_and_not_before(layout: HostLayout) -> None:
    machine = FakeMachine(layout=layout)
    transaction.apply(REQUIRING, "host.yaml", context(layout, machine))
    for name in ("db", "shop"):
        by_hand(layout, machine, "stop", "db")
        transaction.apply(REQUIRING, "host.yaml", context(layout, machine), renewal(layout, name))
        assert up(machine) == {"site"}
        by_hand(layout, machine, "start", "db")
        assert up(machine) == {"site", "db", "shop"}
    by_hand(layout, machine, "stop", "db")
    transaction.apply(REQUIRING.replace("db:1", "db:2"), "host.yaml", context(layout, machine))
    assert up(machine) == {"site", "db", "shop"}
    by_hand(layout, machine, "stop", "shop")
    by_hand(layout, machine, "stop", "db")
    transaction.apply(REQUIRING.replace("db:1", "db:3"), "host.yaml", context(layout, machine))
    assert up(machine) == {"site", "db"}


def test_going_back_starts_nothing_that_was_down_before(layout: HostLayout) -> None:
    machine = FakeMachine(layout=layout)
    transaction.apply(REQUIRING, "host.yaml", context(layout, machine))
    by_hand(layout, machine, "stop", "shop")
    with pytest.raises(ApplyError):
        transaction.apply(REQUIRING, "host.yaml", context(layout, machine), renewal(layout, "db", "sha256:bad"))
    assert machine.running["workload-db.service"] == "image=registry.example/db:1\n"
    assert up(machine) == {"site", "db"}


@pytest.mark.parametrize("booted", [False, True])
def test_an_agent_that_is_killed_goes_back_to_what_was_down_unless_a_boot_came_between(
    layout: HostLayout, booted: bool
) -> None:
    machine = FakeMachine(layout=layout)
    transaction.apply(REQUIRING, "host.yaml", context(layout, machine))
    by_hand(layout, machine, "stop", "shop")
    machine.cut_at = "start workload-db.service"
    with pytest.raises(PowerCutError):
        transaction.apply(REQUIRING, "host.yaml", context(layout, machine), renewal(layout, "db"))
    tried = pending.read(layout)
    assert tried is not None
    assert tried.down == ("shop",)
    if booted:
        machine.running["workload-shop.service"] = machine.loaded["workload-shop.service"]
    assert "went back to 1" in resolve(layout, machine)
    assert machine.running["workload-db.service"] == "image=registry.example/db:1\n"
    assert up(machine) == ({"site", "db", "shop"} if booted else {"site", "db"})


def test_a_marker_of_a_former_release_says_nothing_of_what_was_down(layout: HostLayout) -> None:
    layout.state.mkdir(parents=True)
    (layout.state / "pending").write_text('{"former": 1, "wanted": 2, "booting": false}')
    assert pending.read(layout) == pending.Pending(former=1, wanted=2)


def test_what_is_shown_and_reached_is_the_live_one(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    shown = {row.name: (row.state, row.ports) for row in overview.list_workloads(layout, machine)}
    assert shown == {"site": ("active", ("8080:80",)), "db": ("active", ())}
    stored = overview.require("site", layout)
    views = {view.name: view.workloads for view in network_view.read(stored)}
    assert list(views["front"]) == ["site"]
    bundle = stored.path / "bundles" / stored.record.key("site") / "config.json"
    assert execution.target("site", bundle, machine).name == "site.b"
    assert control.WorkloadControl(layout, machine).start(call("site")) == '{"workload": "site", "done": "start"}'
    assert machine.log[-1] == "start workload-site.b.service"


def call(*arguments: str) -> Call:
    return Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)
