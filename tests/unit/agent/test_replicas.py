"""Several containers of one workload: what a change does to which, what is shown, and whom the verbs reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hostctl.agent import apply as transaction
from hostctl.agent import (
    boot_health,
    control,
    event_log,
    exclusive,
    generation,
    health,
    in_turn,
    network_view,
    overview,
    plan,
    secrets,
    volumes,
)
from hostctl.agent import workloads as rendering
from hostctl.agent.apply import ApplyError, Context
from hostctl.agent.bus import Call
from hostctl.agent.generation import Content, Draft, Pin, Record, Renewed, Stored
from hostctl.agent.machine import UnitState, Verb
from hostctl.agent.overview import NotRunningError, UnknownWorkloadError
from hostctl.agent.tree import text
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage
from hostctl.layout import HostLayout
from hostctl.network import declared, document
from hostctl.network.allocate import Pools
from hostctl.workload import identity, instance, root

BASE = """
version: 1
hostname: web-1
configs: {page: {content: old}}
workloads:
  db: {image: 'registry.example/db:1'}
  site:
    image: registry.example/site:1
    replicas: 3
    ports: ['8080:80']
    required: true
    configs: ['page:/page']
"""
NEXT = BASE.replace("site:1", "site:2")
PIN = Pin(reference="registry.example/site:1", digest="sha256:new")


def scaled(count: int) -> str:
    return BASE.replace("replicas: 3", f"replicas: {count}")


class PowerCutError(BaseException):
    """The agent was killed here."""


@dataclass
class FakeMachine:
    """Runs what it is told; ``sick`` are the units that fail at once, or what is in their files."""

    etc: tuple[Path, ...] = ()
    loaded: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """What the unit said that each was started by last, and by which it is stopped."""
    covered: dict[Path, Path] = field(default_factory=dict)
    cut_at: str = ""
    running: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    log: list[str] = field(default_factory=list)
    sick: tuple[str, ...] = ()
    health: dict[str, str] = field(default_factory=dict)

    def did(self, what: str) -> None:
        self.log.append(what)
        if self.cut_at and what.startswith(self.cut_at):
            raise PowerCutError(what)

    def lay_etc(self, layer: Path | None, *, over: Path | None = None) -> None:
        self.did("lay")
        self.etc = tuple(each for each in (layer, over) if each)

    def cover(self, folder: Path, source: Path) -> None:
        self.covered[folder] = source

    def uncover(self, folder: Path) -> None:
        self.covered.pop(folder, None)

    def reload_units(self) -> None:
        folders = [etc / "systemd/system" for etc in self.etc]
        self.loaded = {
            path.name: path.read_text() for folder in folders if folder.is_dir() for path in folder.iterdir()
        }

    def reload_network(self, *, block: bool = True) -> None:
        pass

    def refresh_workload_network(self, *, block: bool = True) -> None:
        self.did("pass")

    def apply_sysctl(self) -> Sequence[str]:
        return ()

    def make_homes(self) -> None:
        pass

    def set_hostname(self, name: str) -> None:
        pass

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        for name in names:
            if verb == "stop" and name in self.running:
                assert self.texts[name] == self.loaded[name], "it is stopped by another unit than it was started by"
            self.did(f"{verb} {name}")
            if verb in ("stop", "reset-failed"):
                self.running.pop(name, None)
            elif verb == "restart" or name not in self.running:
                self.starts += 1
                self.running[name], self.texts[name] = self.starts, self.loaded.get(name, "")

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        return {name: self._state(name) for name in names if name in self.loaded or name in self.running}

    def _state(self, name: str) -> UnitState:
        up = name in self.running and not {name, self.texts[name], f"{name} {self.texts[name]}"} & {*self.sick}
        return UnitState(
            name=name,
            active="active" if up else "failed",
            sub="",
            result="exit-code",
            main_pid=int(up),
            restarts=0,
            active_for=9.0,
        )

    def workload_health(self, name: str) -> str:
        return self.health.get(name, "")

    def forget_outcome(self, name: str) -> None:
        self.did(f"forget health {name}")

    def forget_workload(self, name: str) -> None:
        self.log.append(f"forget {name}")


def ranges(declaration: HostDeclaration, former: Mapping[str, int]) -> dict[str, int]:
    names = [
        instance.key(str(name), number)
        for name, workload in declaration.workloads.items()
        for number in instance.numbers(workload.replicas)
    ]
    return identity.allocate(names, former)


def stage(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
    record = Record(
        number=draft.number,
        created="2026-01-01T00:00:00Z",
        release="1",
        declaration_sha256="",
        images={
            str(name): draft.renewed.get(str(name), Pin(reference=str(each.image), digest=str(each.image)))
            for name, each in declaration.workloads.items()
        },
        ranges=ranges(declaration, former.record.ranges if former else {}),
        replicas={str(name): each.replicas for name, each in declaration.workloads.items() if each.replicas > 1},
    )
    keys = [key for name in record.images for key in record.keys(name)]
    old = document.decode((former.path / "network.json").read_bytes()) if former else None
    return Content(
        record=record,
        declaration=source,
        etc={
            f"systemd/system/workload-{key}.service": text(record.images[instance.name_of(key)].digest) for key in keys
        },
        bundles={
            key: {"config.json": b"{}", root.FILE: record.images[instance.name_of(key)].digest.encode()} for key in keys
        },
        network=document.encode(declared.plan(declaration, record.ranges, old, Pools())),
    )


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def machine(layout: HostLayout) -> FakeMachine:
    """A machine on which three replicas run, with what happened until then forgotten."""
    made = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, made))
    made.log.clear()
    return made


def context(layout: HostLayout, machine: FakeMachine, *, booting: bool = False) -> Context:
    return Context(layout=layout, machine=machine, stage=stage, release="1", booting=booting)


def current(layout: HostLayout) -> Record:
    stored = generation.current(layout)
    assert stored is not None
    return stored.record


def runs(machine: FakeMachine) -> dict[str, int]:
    """Return which start each running workload is from."""
    return dict(machine.running)


def test_all_of_them_are_started(layout: HostLayout, machine: FakeMachine) -> None:
    assert set(runs(machine)) == {
        *("workload-db.service", "workload-site.service", "workload-site.2.service", "workload-site.3.service"),
    }
    assert current(layout).replicas == {"site": 3}
    assert current(layout).keys("site") == ("site", "site.2", "site.3")
    assert current(layout).keys("db") == ("db",)
    assert generation.decode(generation.encode(current(layout))) == current(layout)


def test_a_change_of_their_number_starts_or_stops_only_the_difference(layout: HostLayout, machine: FakeMachine) -> None:
    three = runs(machine)
    outcome = transaction.apply(scaled(5), "host.yaml", context(layout, machine))
    assert [str(action) for action in outcome.actions] == ["~ replicas site: replicas 3 → 5"]
    assert machine.log == ["lay", "pass", "start workload-site.4.service", "start workload-site.5.service"]
    assert {name: run for name, run in runs(machine).items() if name in three} == three
    machine.log.clear()
    transaction.apply(scaled(2), "host.yaml", context(layout, machine))
    stopped = [line for line in machine.log if line.startswith("stop")]
    assert {line.removesuffix(".service") for line in stopped} == {
        *("stop workload-site.3", "stop workload-site.4", "stop workload-site.5"),
    }
    assert machine.log.index("pass") > machine.log.index(stopped[-1])
    assert [line for line in machine.log if line.startswith("start")] == []
    assert {"forget site.3", "forget health site.3"} <= set(machine.log)
    kept = {"workload-db.service", "workload-site.service", "workload-site.2.service"}
    assert runs(machine) == {name: run for name, run in three.items() if name in kept}
    machine.log.clear()
    transaction.apply(scaled(1), "host.yaml", context(layout, machine))
    assert runs(machine)["workload-site.service"] == three["workload-site.service"]
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert runs(machine)["workload-site.service"] == three["workload-site.service"]
    assert len(runs(machine)) == 4


def test_a_replica_keeps_its_range_and_nobody_else_gets_it(layout: HostLayout, machine: FakeMachine) -> None:
    first = dict(current(layout).ranges)
    transaction.apply(scaled(1), "host.yaml", context(layout, machine))
    more = scaled(4) + "  app: {image: 'registry.example/app:1'}\n"
    transaction.apply(more, "host.yaml", context(layout, machine))
    after = current(layout).ranges
    assert {key: after[key] for key in first} == first
    assert len(set(after.values())) == len(after) == len(first) + 2
    assert current(layout).range_of("site.3") == first["site.3"]


def change(key: str) -> list[str]:
    """Return what is done to one replica."""
    return [f"stop workload-{key}.service", "lay", "pass", f"start workload-{key}.service"]


def steps(machine: FakeMachine) -> list[str]:
    """Return what was done but for what is done to outcomes."""
    return [each for each in machine.log if each.split()[0] not in ("forget", "reset-failed")]


@pytest.mark.parametrize(
    ("changed", "first", "more"),
    [
        pytest.param(NEXT, [], [], id="declaration"),
        pytest.param(BASE.replace("content: old", "content: new"), [], [], id="config"),
        pytest.param(NEXT.replace("replicas: 3", "replicas: 4"), [], ["start workload-site.4.service"], id="more"),
        pytest.param(NEXT.replace("replicas: 3", "replicas: 2"), ["stop workload-site.3.service"], [], id="fewer"),
    ],
)
def test_any_other_change_is_one_of_one_after_the_other(
    layout: HostLayout, machine: FakeMachine, changed: str, first: list[str], more: list[str]
) -> None:
    before = runs(machine)
    transaction.apply(changed, "host.yaml", context(layout, machine))
    keys = [key for key in ("site", "site.2", "site.3") if f"stop workload-{key}.service" not in first]
    same = "site:2" not in changed  # what they are made from is laid once
    turns = [step for key in keys for step in change(key) if not (same and step == "pass")]
    assert steps(machine) == [*first, "lay", "pass", *more, *turns]
    assert all(runs(machine)[f"workload-{key}.service"] > before[f"workload-{key}.service"] for key in keys)
    assert runs(machine)["workload-db.service"] == before["workload-db.service"]
    assert machine.covered == {}
    assert machine.etc == ((layout.current / "etc").resolve(),)
    assert not layout.turns.exists()
    assert layout.turns not in machine.etc


def test_those_that_wait_for_their_turn_are_what_they_were(layout: HostLayout, machine: FakeMachine) -> None:
    machine.cut_at = "start workload-site.2"
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    two, one = (layout.generations / number / "bundles/site.3" for number in "21")
    assert machine.covered == {two.resolve(): one.resolve()}
    assert {key: machine.loaded[f"workload-{key}.service"][-1] for key in ("site", "site.2", "site.3")} == {
        "site": "2",
        "site.2": "2",
        "site.3": "1",
    }
    assert in_turn.unchanged(layout, 1) == {"site.3"}
    assert in_turn.unchanged(layout, 2) == frozenset()


def test_one_that_does_not_serve_is_the_first(layout: HostLayout, machine: FakeMachine) -> None:
    control.WorkloadControl(layout, machine).stop(call("site.2", ""))
    machine.log.clear()
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    starts = [line for line in machine.log if line.startswith("start")]
    assert starts == [f"start workload-{key}.service" for key in ("site.2", "site", "site.3")]
    assert {machine.texts[name] for name in runs(machine) if "site" in name} == {"registry.example/site:2"}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(NEXT.replace("8080:80", "8081:80"), id="ports"),
        pytest.param(NEXT + "networks: {default: {mtu: 1400}}\n", id="its-network"),
        pytest.param(
            NEXT.replace("required: true", "networks: [back]") + "networks: {back: {}}\n", id="another-network"
        ),
        pytest.param(NEXT.replace("replicas: 3", "replicas: 1"), id="to-one"),
    ],
)
def test_what_needs_the_packet_filter_to_change_with_it_is_changed_at_once(
    layout: HostLayout, machine: FakeMachine, changed: str
) -> None:
    transaction.apply(changed, "host.yaml", context(layout, machine))
    stops = [index for index, line in enumerate(machine.log) if line.startswith("stop workload-site")]
    assert len(stops) == 3
    assert max(stops) < machine.log.index("lay")


REQUIRES = "depends_on: {%s: {requires: true}}"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        pytest.param(
            BASE.replace("required: true", REQUIRES % "db"), lambda text: text.replace("db:1", "db:2"), id="requires"
        ),
        pytest.param(
            BASE.replace("registry.example/db:1'", "registry.example/db:1', " + REQUIRES % "site"),
            lambda text: text.replace("site:1", "site:2"),
            id="is-required",
        ),
    ],
)
def test_what_is_stopped_with_another_is_changed_at_once(
    layout: HostLayout, machine: FakeMachine, text: str, changed: Callable[[str], str]
) -> None:
    transaction.apply(text, "host.yaml", context(layout, machine))
    machine.log.clear()
    transaction.apply(changed(text), "host.yaml", context(layout, machine))
    did = [each for each in steps(machine) if each.split()[0] in ("stop", "lay", "start")]
    assert did.count("lay") == 1
    laid = did.index("lay")
    names = {f"workload-{key}.service" for key in ("db", "site", "site.2", "site.3")}
    assert {each.removeprefix("stop ") for each in did[:laid]} == names
    assert {each.removeprefix("start ") for each in did[laid + 1 :]} == names


def test_what_requires_another_changes_one_after_the_other_when_that_stays(
    layout: HostLayout, machine: FakeMachine
) -> None:
    text = BASE.replace("required: true", REQUIRES % "db")
    transaction.apply(text, "host.yaml", context(layout, machine))
    machine.log.clear()
    transaction.apply(text.replace("site:1", "site:2"), "host.yaml", context(layout, machine))
    assert [line for line in steps(machine) if line.startswith("st")] == [
        line for key in ("site", "site.2", "site.3") for line in change(key) if line.startswith("st")
    ]


def test_at_boot_nothing_waits_for_its_turn(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(NEXT, "host.yaml", context(layout, machine, booting=True))
    assert [line for line in machine.log if line.startswith("restart")] == [
        f"restart workload-{key}.service" for key in ("site", "site.2", "site.3")
    ]
    assert not layout.turns.exists()


def test_a_renewed_image_goes_to_all(layout: HostLayout, machine: FakeMachine) -> None:
    before = runs(machine)
    transaction.apply(BASE, "x", context(layout, machine), Renewed(generation=1, pins={"site": PIN}))
    assert all(runs(machine)[name] > run for name, run in before.items() if "site" in name)
    assert [line for line in steps(machine) if line.startswith("st")] == [
        line for key in ("site", "site.2", "site.3") for line in change(key) if line.startswith("st")
    ]


def renew(layout: HostLayout, machine: FakeMachine) -> None:
    renewed = Renewed(generation=current(layout).number, pins={"site": PIN})
    transaction.apply(BASE, "x", context(layout, machine), renewed)


def images_of_site(machine: FakeMachine) -> dict[str, str]:
    """Return what each replica that runs was started from."""
    return {
        name.removeprefix("workload-").removesuffix(".service"): machine.texts[name]
        for name in runs(machine)
        if "site" in name
    }


def test_a_replica_that_was_stopped_gets_another_image_and_stays_down(layout: HostLayout, machine: FakeMachine) -> None:
    control.WorkloadControl(layout, machine).stop(call("site.2", ""))
    machine.log.clear()
    renew(layout, machine)
    assert images_of_site(machine) == dict.fromkeys(("site", "site.3"), "sha256:new")
    assert "start workload-site.2.service" not in machine.log
    assert machine.loaded["workload-site.2.service"] == "sha256:new"
    assert (machine.covered, layout.turns.exists(), current(layout).number) == ({}, False, 2)
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert images_of_site(machine) == dict.fromkeys(("site", "site.2", "site.3"), "registry.example/site:2")


def test_a_workload_of_which_all_were_stopped_stays_down(layout: HostLayout, machine: FakeMachine) -> None:
    control.WorkloadControl(layout, machine).stop(call("site", ""))
    renew(layout, machine)
    assert (images_of_site(machine), current(layout).images["site"]) == ({}, PIN)


def test_a_replica_that_was_stopped_stays_down_when_the_others_go_back(
    layout: HostLayout, machine: FakeMachine
) -> None:
    control.WorkloadControl(layout, machine).stop(call("site.2", ""))
    machine.sick = ("workload-site.3.service sha256:new",)
    with pytest.raises(ApplyError):
        renew(layout, machine)
    assert images_of_site(machine) == dict.fromkeys(("site", "site.3"), "registry.example/site:1")
    machine.sick = ()
    for moment in ("lay", "start workload-site.3"):
        machine.cut_at = moment
        with pytest.raises(PowerCutError):
            renew(layout, machine)
        machine.cut_at = ""
        with exclusive.lock(layout):
            transaction.resolve(context(layout, machine))
        assert images_of_site(machine) == dict.fromkeys(("site", "site.3"), "registry.example/site:1")


@pytest.mark.parametrize("required", ["true", "false"])
@pytest.mark.parametrize(
    ("bad", "rest"),
    [("site", "; not changed: site.2, site.3"), ("site.2", "; not changed: site.3"), ("site.3", "")],
)
def test_one_that_is_not_healthy_is_taken_back_and_what_was_not_touched_runs_on(
    layout: HostLayout, machine: FakeMachine, required: str, bad: str, rest: str
) -> None:
    before, keys = runs(machine), ("site", "site.2", "site.3")
    machine.sick = (f"workload-{bad}.service registry.example/site:2",)
    told: list[str] = []
    where = replace(context(layout, machine), notify=told.append)
    with pytest.raises(ApplyError) as caught:
        transaction.apply(NEXT.replace("required: true", f"required: {required}"), "host.yaml", where)
    label = f"site.{instance.position(instance.split(bad)[1])}"
    assert caught.value.brief == f"generation 2 was taken back: {label} did not become healthy{rest}"
    assert f"workload site: {label}: failed" in caught.value.details
    assert [(each.kind, each.name) for each in caught.value.late] == [("workload", "site")]
    touched = keys[: keys.index(bad) + 1]
    assert {key for key in keys if runs(machine)[f"workload-{key}.service"] != before[f"workload-{key}.service"]} == {
        *touched
    }
    back = [line for line in machine.log if line.startswith("start")][len(touched) :]
    assert back == [f"start workload-{key}.service" for key in (bad, *touched[:-1])]
    assert all(machine.texts[name].endswith(":1") for name in machine.running)
    assert (machine.covered, layout.turns.exists(), current(layout).number) == ({}, False, 1)
    assert told.index(f"changing replica {label}") < told.index(f"waiting for replica {label}")
    assert f"changing replica {label} back" in told
    transaction.apply(NEXT.replace("site:2", "site:3"), "host.yaml", context(layout, machine))
    assert machine.texts["workload-site.3.service"].endswith(":3")


def test_what_fails_later_takes_all_back_one_after_the_other(layout: HostLayout, machine: FakeMachine) -> None:
    machine.sick = ("registry.example/db:2",)
    with pytest.raises(ApplyError):
        transaction.apply(
            NEXT.replace("{image: 'registry.example/db:1'}", "{image: 'registry.example/db:2', required: true}"),
            "host.yaml",
            context(layout, machine),
        )
    back = steps(machine)[-12:]
    assert back == [step for key in ("site", "site.2", "site.3") for step in change(key)]
    assert all(machine.texts[name].endswith(":1") for name in machine.running)
    assert (machine.covered, layout.turns.exists()) == ({}, False)


CUTS = [
    pytest.param("lay", set(), id="before-any"),
    pytest.param("stop workload-site.2", {"site"}, id="when-the-second-is-to-stop"),
    pytest.param("forget health site.2", {"site", "site.2"}, id="when-the-second-has-stopped"),
    pytest.param("start workload-site.2", {"site", "site.2"}, id="when-the-second-starts"),
]


@pytest.mark.parametrize(("moment", "touched"), CUTS)
def test_an_agent_that_is_killed_goes_back_by_itself_and_touches_no_others(
    layout: HostLayout, machine: FakeMachine, moment: str, touched: set[str]
) -> None:
    before = runs(machine)
    machine.cut_at = moment
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    machine.cut_at = ""
    machine.log.clear()
    with exclusive.lock(layout):
        assert "went back to 1" in transaction.resolve(context(layout, machine))
    changed = {name for name, run in before.items() if runs(machine)[name] != run}
    assert changed == {f"workload-{key}.service" for key in touched}
    assert all(machine.texts[name].endswith(":1") for name in machine.running)
    assert (machine.covered, layout.turns.exists(), current(layout).number) == ({}, False, 1)


def test_going_back_that_is_cut_off_goes_on_where_it_was(layout: HostLayout, machine: FakeMachine) -> None:
    machine.cut_at = "start workload-site.3"
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    machine.cut_at = "stop workload-site.service"
    with exclusive.lock(layout), pytest.raises(PowerCutError):
        transaction.resolve(context(layout, machine))
    assert in_turn.unchanged(layout, 1) == {"site.3"}  # it was down, so it was the first
    machine.cut_at = ""
    machine.log.clear()
    with exclusive.lock(layout):
        transaction.resolve(context(layout, machine))
    assert [line for line in steps(machine) if line.startswith("start")] == [
        f"start workload-{key}.service" for key in ("site", "site.2")
    ]
    assert (machine.covered, layout.turns.exists()) == ({}, False)


def test_the_start_of_the_agent_waits_only_so_long_for_those_that_it_goes_back_to(layout: HostLayout) -> None:
    checked = BASE + "    healthcheck: {tcp: 'localhost:80'}\n"
    machine, clock = Checked(patience=0), Clock()
    where = replace(
        context(layout, machine), wait=partial(health.wait, clock=clock, pause=clock.pause), clock=clock, patience=15.0
    )
    transaction.apply(checked, "host.yaml", where)
    machine.cut_at = "start workload-site.3"
    with pytest.raises(PowerCutError):
        transaction.apply(checked.replace("site:1", "site:2"), "host.yaml", where)
    machine.never, machine.cut_at, began = ("site", "site.2", "site.3"), "", clock.now
    with exclusive.lock(layout):
        transaction.resolve(where)
    assert clock.now - began < 20
    assert all(machine.texts[name].endswith(":1") for name in machine.running)
    assert set(machine.running) >= {f"workload-{key}.service" for key in ("site", "site.2", "site.3")}


def test_each_is_changed_when_the_one_before_has_been_healthy_for_a_while(layout: HostLayout) -> None:
    checked = BASE + "    healthcheck: {tcp: 'localhost:80'}\n"
    machine, clock = Checked(), Clock()
    where = replace(context(layout, machine), wait=partial(health.wait, clock=clock, pause=clock.pause), clock=clock)
    transaction.apply(checked, "host.yaml", where)
    machine.log.clear()
    began = clock.now
    transaction.apply(checked.replace("site:1", "site:2"), "host.yaml", where)
    told = [line for line in machine.log if line.startswith(("start", "healthy"))]
    assert told == [
        line for key in ("site", "site.2", "site.3") for line in (f"start workload-{key}.service", f"healthy {key}")
    ]
    assert clock.now - began >= 3 * (machine.patience * health.PAUSE + health.SETTLED)


def test_what_is_required_is_every_one_and_a_failure_takes_only_the_difference_back(
    layout: HostLayout, machine: FakeMachine
) -> None:
    before = runs(machine)
    machine.sick = ("workload-site.5.service",)
    with pytest.raises(ApplyError) as caught:
        transaction.apply(scaled(5), "host.yaml", context(layout, machine))
    assert "workload site: site.5: failed" in caught.value.details
    assert runs(machine) == before
    assert current(layout).replicas == {"site": 3}
    assert "forget site.4" in machine.log


def test_at_boot_only_the_new_ones_are_started(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(scaled(4), "host.yaml", context(layout, machine, booting=True))
    assert "start workload-site.4.service" in machine.log
    assert not any(line.startswith(("stop", "restart")) for line in machine.log)


def test_a_boot_that_goes_back_ends_those_that_were_more(layout: HostLayout, machine: FakeMachine) -> None:
    machine.cut_at = "pass"
    with pytest.raises(PowerCutError):
        transaction.apply(scaled(5), "host.yaml", context(layout, machine))
    machine.cut_at = ""
    machine.units("start", [f"workload-{key}.service" for key in ("site.4", "site.5")])
    before = runs(machine)
    with exclusive.lock(layout):
        transaction.resolve(context(layout, machine, booting=True))
    assert {name: run for name, run in before.items() if name[-9] not in "45"} == runs(machine)
    assert {"forget site.4", "forget site.5"} <= set(machine.log)


def test_removing_the_workload_removes_all(layout: HostLayout, machine: FakeMachine) -> None:
    transaction.apply(BASE.partition("  site:")[0], "host.yaml", context(layout, machine))
    assert set(runs(machine)) == {"workload-db.service"}
    assert {"forget site", "forget site.2", "forget site.3"} <= set(machine.log)


def test_only_the_number_of_replicas_is_a_change_of_its_own() -> None:
    old = parse_host(BASE, "x")
    assert plan.scaled(plan.plan(old, parse_host(scaled(9), "x"))) == ("site",)
    for text_ in (
        scaled(9).replace("site:1", "site:2"),
        scaled(9).replace("content: old", "content: new"),
        scaled(9) + "networks: {default: {mtu: 1400}}\n",
    ):
        actions = plan.plan(old, parse_host(text_, "x"))
        assert plan.scaled(actions) == ()
        assert plan.workloads(actions, "change")[0] in ("site", "db")
        assert "site" in plan.workloads(actions, "change")
    both = plan.plan(old, parse_host(scaled(9), "x"))
    assert plan.scaled(plan.with_images(both, {"site": PIN}, {"site": replace(PIN, digest="sha256:b")})) == ()


def test_each_is_shown_and_reached_by_its_number(layout: HostLayout, machine: FakeMachine) -> None:
    rows = overview.list_workloads(layout, machine)
    assert [(row.name, row.ports) for row in rows] == [
        ("db", ()),
        *[(f"site.{number}", ("8080:80",)) for number in (1, 2, 3)],
    ]
    record = overview.require("site.3", layout).record
    assert [record.key(name) for name in ("site", "site.1", "site.3", "db")] == ["site", "site", "site.3", "db"]
    assert record.named("site") == ("site", "site.2", "site.3")
    for name in ("site.4", "site.0", "site.02", "site.a", "db.1", "db.2", "none"):
        with pytest.raises(UnknownWorkloadError) as caught:
            overview.require(name, layout)
    assert caught.value.hint == "declared are db, site"
    with pytest.raises(UnknownWorkloadError) as caught:
        overview.require("site.4", layout)
    assert caught.value.hint == "its replicas are site.1 to site.3"
    (view,) = network_view.read(overview.require("site", layout))
    assert list(view.workloads) == ["db", "site.1", "site.2", "site.3"]


def call(*arguments: str) -> Call:
    return Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)


def test_verbs_act_on_all_or_on_the_one_that_is_named(layout: HostLayout, machine: FakeMachine) -> None:
    verbs = control.WorkloadControl(layout, machine)
    before = runs(machine)
    verbs.stop(call("site.2", ""))
    assert set(before) - set(runs(machine)) == {"workload-site.2.service"}
    verbs.start(call("site"))
    assert set(runs(machine)) == set(before)
    assert runs(machine)["workload-site.3.service"] == before["workload-site.3.service"]
    machine.log.clear()
    verbs.restart(call("site", ""))
    assert machine.log == [f"restart workload-{key}.service" for key in ("site", "site.2", "site.3")]
    verbs.stop(call("site", ""))
    assert set(runs(machine)) == {"workload-db.service"}
    with pytest.raises(NotRunningError):
        verbs.kill(call("site", "TERM"))
    with pytest.raises(UnknownWorkloadError):
        verbs.start(call("site.4"))


def test_health_is_that_of_the_worst(machine: FakeMachine) -> None:
    declaration = parse_host(BASE + "    healthcheck: {tcp: 'localhost:80'}\n", "x")
    keys = ("site", "site.2", "site.3")
    machine.health = dict.fromkeys(keys, "healthy")

    def checked() -> health.Report:
        return health.check_once(declaration, machine, ["site"], keys=lambda name: keys)

    assert checked().healthy
    machine.health["site.2"] = "unhealthy"
    assert checked().cause() == "workload site: site.2: unhealthy"
    machine.sick = ("workload-site.3.service",)
    (result,) = checked().results
    assert (result.final, result.detail[:7]) == (True, "site.3:")
    units = boot_health.concerned(checked(), declaration, lambda name: keys)
    assert units[-3:] == ("workload-site.service", "workload-site.2.service", "workload-site.3.service")


def test_a_volume_is_in_use_while_any_of_them_runs(layout: HostLayout, machine: FakeMachine) -> None:
    path = layout.volumes / "data"
    path.mkdir(parents=True)
    bundle = layout.current.resolve() / "bundles/site/config.json"
    bundle.write_text(f'{{"mounts": [{{"source": "/{path.relative_to(layout.root)}"}}]}}')
    machine.running.pop("workload-site.service")
    assert volumes.Volumes(layout, machine).get("data").running == ("site",)
    for key in ("site.2", "site.3"):
        machine.running.pop(f"workload-{key}.service")
    assert volumes.Volumes(layout, machine).get("data").running == ()


def test_an_event_tells_which_of_them() -> None:
    entry = '{{"__REALTIME_TIMESTAMP": "1", "_PID": "1", "UNIT": "{unit}", "MESSAGE_ID": "{action}"}}'
    action = next(number for number, name in event_log.ACTIONS.items() if name == "die")
    event = event_log.parse(entry.format(unit="workload-site.12.service", action=action))
    assert event is not None
    assert (event.name, event.attributes) == ("site", {"instance": "12"})
    assert event_log.parse(entry.format(unit="workload-site.health.service", action=action)) is None


def specs(source: str) -> Mapping[str, Any]:
    declaration = parse_host(source, "x")
    held = ranges(declaration, {})
    image = StoredImage(
        reference="x",
        digest="sha256:" + "1" * 64,
        config=ImageConfig(diff_ids=(), cmd=("/bin/web",)),
        layers=(Path(f"/layers/sha256-{'a' * 64}.erofs"),),
        bytes=1,
    )
    images = {str(name): image for name in declaration.workloads}
    made = rendering.specs(declaration, images, {}, held, declared.plan(declaration, held, None, Pools()), {})
    return {spec.key: spec for spec in made}


def test_each_is_rendered_with_all_of_its_own() -> None:
    made = specs(BASE + "  app: {image: 'registry.example/app:1', depends_on: {site: {}}}\n")
    assert list(made) == ["db", "site", "site.2", "site.3", "app"]
    assert len({spec.first_id for spec in made.values()}) == 5
    assert [spec.label for spec in made.values()] == ["db", "site.1", "site.2", "site.3", "app"]
    assert made["site.2"].network.chain == "replica-site.2"
    assert made["app"].replicas_of == {"site": 3}
    assert made["site.3"].network.addresses != made["site"].network.addresses
    declaration = parse_host(BASE, "x")
    network = declared.plan(declaration, ranges(declaration, {}), None, Pools())
    etc = rendering.etc(tuple(specs(BASE).values()), network, declaration)
    lines = etc["hosts"].content.decode().splitlines()  # type: ignore[union-attr]  # a file
    assert [line.partition(" ")[2] for line in lines[2:]] == ["db", "site site.1", "site site.2", "site site.3"]
    first = specs(scaled(1))["site"]
    assert (first.label, first.network.chain, replace(first).key) == ("site", "", "site")


@dataclass
class Checked(FakeMachine):
    """A machine whose workloads become healthy some looks after their start, but for those that never do."""

    patience: int = 2
    never: tuple[str, ...] = ()
    looks: dict[str, int] = field(default_factory=dict)

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        super().units(verb, names, block=block)
        self.looks |= dict.fromkeys(names, 0)

    def workload_health(self, name: str) -> str:
        unit = f"workload-{name}.service"
        self.looks[unit] += 1
        well = self.looks[unit] > self.patience and name not in self.never
        if self.looks[unit] == self.patience + 1 and well:
            self.log.append(f"healthy {name}")
        return "healthy" if well else "unhealthy"


def declare_check(layout: HostLayout) -> None:
    """Put three replicas with a check in force."""
    transaction.apply(BASE, "host.yaml", context(layout, FakeMachine()))
    path = layout.current.resolve() / "host.yaml"
    path.write_text(f"{path.read_text()}    healthcheck: {{tcp: 'localhost:80'}}\n")


class Clock:
    """Time that passes by waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def pause(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds

    def __call__(self) -> float:
        """Return it."""
        return self.now


def test_a_restart_goes_on_when_the_one_before_is_healthy(layout: HostLayout) -> None:
    declare_check(layout)
    machine, clock = Checked(), Clock()
    verbs = control.WorkloadControl(layout, machine, partial(health.wait, clock=clock, pause=clock.pause))
    verbs.restart(call("site", ""))
    assert machine.log == [
        *("restart workload-site.service", "healthy site"),
        *("restart workload-site.2.service", "healthy site.2"),
        "restart workload-site.3.service",
    ]
    # Its check tells of its health, and then leads connections to it: that takes a moment.
    assert clock.now >= 2 * (machine.patience * health.PAUSE + health.SETTLED)
    machine.log.clear()
    verbs.restart(call("site.2", ""))
    assert machine.log == ["restart workload-site.2.service"]


def test_a_restart_ends_at_one_that_does_not_become_healthy(layout: HostLayout) -> None:
    declare_check(layout)
    machine, clock = Checked(never=("site.2",)), Clock()
    verbs = control.WorkloadControl(layout, machine, partial(health.wait, clock=clock, pause=clock.pause))
    with pytest.raises(health.UnhealthyError) as caught:
        verbs.restart(call("site", ""))
    assert caught.value.brief == "site.2 did not become healthy after its restart; not restarted: site.3"
    assert caught.value.details == "workload site: site.2: unhealthy"
    assert caught.value.hint == "hostctl logs site.2"
    restarted = [line for line in machine.log if line.startswith("restart")]
    assert restarted == ["restart workload-site.service", "restart workload-site.2.service"]
    assert health.WORKLOAD_DEADLINE <= clock.now < health.WORKLOAD_DEADLINE + 5


def running(*keys: str) -> Checked:
    """Return a machine on which these run."""
    units = [f"workload-{key}.service" for key in keys]
    return Checked(running=dict.fromkeys(units, 1), texts=dict.fromkeys(units, ""))


def test_a_new_secret_restarts_replicas_in_their_turn_after_all_others(layout: HostLayout) -> None:
    declare_check(layout)
    path = layout.current.resolve() / "host.yaml"
    seen = "{image: 'registry.example/db:1', env_secrets: {PASSWORD: key}}"
    told = path.read_text().replace("{image: 'registry.example/db:1'}", seen)
    path.write_text(f"{told}    secrets: [key]\nsecrets: {{key: {{}}, other: {{}}}}\n")
    machine, clock = running("db", "site", "site.3"), Clock()
    wait = partial(health.wait, clock=clock, pause=clock.pause)
    said: list[str] = []
    assert secrets.restart_users(layout, machine, "key", notify=said.append, wait=wait) == ("db", "site")
    assert machine.log == [
        "restart workload-db.service",
        *("restart workload-site.service", "healthy site"),
        "restart workload-site.3.service",  # nothing starts the one that somebody stopped
    ]
    assert said == ["waiting for replica site.1"]
    machine.log.clear()
    machine.never = ("site",)
    with pytest.raises(health.UnhealthyError, match=r"site\.1 .* not restarted: site\.3"):
        secrets.restart_users(layout, machine, "key", notify=said.append, wait=wait)
    machine.log.clear()
    assert secrets.restart_users(layout, machine, "other", notify=said.append, wait=wait) == ()
    machine.running.clear()
    assert secrets.restart_users(layout, machine, "key", notify=said.append, wait=wait) == ()
    assert machine.log == []


def test_a_new_secret_runs_no_job_and_restarts_what_hangs_together_at_once(layout: HostLayout) -> None:
    declare_check(layout)
    path = layout.current.resolve() / "host.yaml"
    told = path.read_text().replace("{image: 'registry.example/db:1'}", "{image: 'r.example/db:1', type: job, KEY}")
    told += "    KEY\n    depends_on: {other: {requires: true}}\n  other: {image: 'r.example/other:1', KEY}\n"
    told = f"{told}secrets: {{key: {{}}}}\n".replace("KEY", "secrets: [key]")
    path.write_text(told)
    keys = ("site", "site.2", "site.3", "other")
    machine = running("db", *keys)
    assert secrets.restart_users(layout, machine, "key", notify=print) == ("site", "other")
    assert machine.log == [f"restart workload-{key}.service" for key in keys]
    machine.log.clear()
    path.write_text(told.replace("other:1', secrets: [key]}", "other:1'}"))
    clock = Clock()
    wait = partial(health.wait, clock=clock, pause=clock.pause)
    assert secrets.restart_users(layout, machine, "key", notify=print, wait=wait) == ("site",)
    assert [line for line in machine.log if line.startswith("healthy")] == ["healthy site", "healthy site.2"]


def test_a_restart_ends_at_one_that_does_not_stay_up(layout: HostLayout, machine: FakeMachine) -> None:
    machine.sick = ("workload-site.service",)
    with pytest.raises(health.UnhealthyError, match=r"site\.1 .* not restarted: site\.2, site\.3"):
        control.WorkloadControl(layout, machine).restart(call("site", ""))
    assert machine.log == ["restart workload-site.service"]
