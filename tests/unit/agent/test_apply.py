"""The transaction, against a machine that keeps state and a real folder."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hostctl.agent import activation, exclusive, generation, older, pending, render, unit_control, withheld
from hostctl.agent import apply as transaction
from hostctl.agent.apply import ApplyError, Context, NotWrittenError, UnsettledError
from hostctl.agent.exclusive import BusyError, OvertakenError
from hostctl.agent.generation import Content, Draft, Record, Stored
from hostctl.agent.machine import UnitState, Verb
from hostctl.agent.service import HostService
from hostctl.agent.tree import merge, text
from hostctl.config.host import HostDeclaration
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

BASE = """
version: 1
hostname: web-1
workloads:
  site: {image: registry.example/site:1, required: true}
  db: {image: registry.example/db:1}
"""
NEXT = BASE.replace("site:1", "site:2")
CHECKED = BASE.replace("db:1}", "db:1, healthcheck: {tcp: 'localhost:5432'}}")
WAITING = CHECKED.replace("required: true}", "depends_on: {db: {condition: healthy}}}")


class StartError(HostctlError):
    """A unit's job failed."""


class PowerCutError(BaseException):
    """The machine lost power here."""


@dataclass
class FakeMachine:
    """A systemd that runs what it is told; units whose file holds a broken image fail."""

    broken: str = "none"
    layer: Path | None = None
    loaded: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    cut_at: str = ""
    forgiven: list[str] = field(default_factory=list)
    """Units of which it is forgotten that they failed."""
    fails_at: str = ""
    fails: int = 1
    frozen: set[str] = field(default_factory=set)
    """Units that systemd does not stop, unlike the others that it is asked to stop with them."""
    queued: set[str] = field(default_factory=set)

    def _did(self, what: str) -> None:
        self.log.append(what)
        if self.cut_at and what.startswith(self.cut_at):
            raise PowerCutError(what)
        if self.fails_at and self.fails and what.startswith(self.fails_at):
            self.fails -= 1
            raise OSError(errno.EMFILE, "Too many open files", "/proc")

    def lay_etc(self, layer: Path | None, *, over: Path | None = None) -> None:
        self._did("lay")
        self.layer = layer

    def cover(self, folder: Path, source: Path) -> None:
        raise AssertionError("nothing here has replicas")

    def uncover(self, folder: Path) -> None:
        raise AssertionError("nothing here has replicas")

    def reload_units(self) -> None:
        folder = self.layer / "systemd/system" if self.layer else None
        self.loaded = (
            {unit.name: unit.read_text() for unit in folder.glob("workload-*")} if folder and folder.is_dir() else {}
        )

    def reload_network(self, *, block: bool = True) -> None:
        self._did("network")

    def refresh_workload_network(self, *, block: bool = True) -> None:
        self._did("workload network")

    def apply_sysctl(self) -> Sequence[str]:
        self._did("sysctl")
        return ("a setting stays",)

    def make_homes(self) -> None:
        self._did("homes")

    def set_hostname(self, name: str) -> None:
        self._did(f"hostname {name}")

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        if verb == "reset-failed":
            self.forgiven += names
            return
        refused = [name for name in names if verb == "stop" and name in self.frozen]
        for name in names:
            if name in refused:
                continue
            self._did(f"{verb} {name}{'' if block else ' later'}")
            self.running.pop(name, None)
            if verb == "stop":
                continue
            if self.broken in self.loaded.get(name, ""):
                raise StartError(f"{name} failed")
            self.running[name] = self.loaded.get(name, "")  # a unit of the image
        if refused:
            raise StartError(f"Cannot perform operation on frozen unit {refused[0]}")

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        return {
            name: UnitState(
                name=name,
                active="active" if name in self.running else "failed",
                sub="running",
                result="exit-code",
                main_pid=1,
                restarts=0,
                active_for=9.0,
                paused=name in self.frozen,
                queued=name in self.queued,
            )
            for name in names
            if name in self.loaded
        }

    def workload_health(self, name: str) -> str:
        return ""

    def forget_outcome(self, name: str) -> None:
        pass

    def forget_workload(self, name: str) -> None:
        self._did(f"forget {name}")


def stage(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
    units = {
        f"systemd/system/workload-{name}.{kind}": text(f"image={workload.image}\n")
        for name, workload in declaration.workloads.items()
        for kind in {"service", workload.starter}
    }
    units |= {
        f"systemd/system/workload-{other}.healthy.service": text("")
        for workload in declaration.workloads.values()
        for other, dependency in workload.depends_on.items()
        if dependency.condition == "healthy"
    }
    return Content(
        record=Record(
            number=draft.number,
            created="2026-01-01T00:00:00Z",
            release="1",
            declaration_sha256=hashlib.sha256(source.encode()).hexdigest(),
            withheld=draft.withheld,
        ),
        declaration=source,
        etc=merge(render.host(declaration, machine_id="0" * 32, uids={}), units),
        bundles={str(name): {"config.json": b"{}"} for name in declaration.workloads},
        network=b"{}",
    )


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


def context(layout: HostLayout, machine: FakeMachine, *, booting: bool = False) -> Context:
    return Context(layout=layout, machine=machine, stage=stage, release="1", booting=booting)


def in_force(layout: HostLayout) -> int:
    stored = generation.current(layout)
    return stored.record.number if stored else 0


def test_a_first_declaration_becomes_generation_1(layout: HostLayout) -> None:
    machine = FakeMachine()
    outcome = transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert (outcome.generation, outcome.former, in_force(layout)) == (1, None, 1)
    assert layout.current.readlink() == Path("generations/1")
    assert set(machine.running) == {"workload-site.service", "workload-db.service"}
    assert (layout.current / "etc/hostname").read_text() == "web-1\n"
    assert (layout.current / "host.yaml").read_text() == BASE
    assert (layout.current / "bundles/site/config.json").is_file()
    assert pending.read(layout) is None


def test_kernel_settings_that_cannot_be_undone_are_a_note(layout: HostLayout) -> None:
    machine, told = FakeMachine(), list[str]()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    more = BASE + "sysctl: {vm.swappiness: '1'}\n"
    machine.broken = "site:2"
    with pytest.raises(ApplyError):
        changed = more.replace("site:1", "site:2")
        transaction.apply(changed, "host.yaml", replace(context(layout, machine), notify=told.append))
    assert (machine.log.count("sysctl"), told.count("a setting stays")) == (2, 1)  # on the way back as well
    assert transaction.apply(more, "host.yaml", context(layout, machine)).notes == ("a setting stays",)


def test_applying_twice_does_nothing(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    outcome = transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert (outcome.actions, outcome.generation, machine.log) == ((), 1, [])
    assert generation.numbers(layout) == [1]


def test_an_immediate_update_policy_starts_the_timer_and_keeps_it(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    policy = "update: {repository: 'http://u.example/', strategy: immediate}\n"
    stored = transaction.apply(BASE + policy, "host.yaml", context(layout, machine))
    wants = "etc/systemd/system/timers.target.wants/hostctl-update.timer"
    assert "start hostctl-update.timer" in machine.log
    assert (layout.generations / str(stored.generation) / wants).is_symlink()
    stored = transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert "stop hostctl-update.timer" in machine.log
    assert not (layout.generations / str(stored.generation) / wants).is_symlink()


def test_images_are_looked_up_again_only_where_that_is_declared(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    renewed = BASE.replace("db:1}", "db:1, auto_update: true}")
    outcome = transaction.apply(renewed, "host.yaml", context(layout, machine))
    assert "+ auto-update auto-update: declared" in map(str, outcome.actions)
    assert "start hostctl-auto-update.timer" in machine.log
    wants = "etc/systemd/system/timers.target.wants/hostctl-auto-update.timer"
    assert (layout.current / wants).readlink() == Path("/usr/lib/systemd/system/hostctl-auto-update.timer")
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert "stop hostctl-auto-update.timer" in machine.log
    assert not (layout.current / wants).is_symlink()


def test_metrics_are_listened_for_where_they_are_declared(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    stored = transaction.apply(BASE + "metrics: {listen: '[0::1]:9600'}\n", "host.yaml", context(layout, machine))
    units = layout.generations / str(stored.generation) / "etc/systemd/system"
    assert machine.log[-1] == "start hostctl-metrics.socket"
    assert "ListenStream=[::1]:9600\n" in (units / "hostctl-metrics.socket.d/10-hostctl.conf").read_text()
    assert (units / "sockets.target.wants/hostctl-metrics.socket").is_symlink()
    machine.log.clear()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert "stop hostctl-metrics.socket" in machine.log
    assert "start hostctl-metrics.socket" not in machine.log


def test_only_what_changed_is_restarted(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    outcome = transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert machine.log == ["stop workload-site.service", "lay", "workload network", "start workload-site.service"]
    assert [action.subject for action in outcome.actions] == ["site"]
    assert machine.running["workload-site.service"] == "image=registry.example/site:2\n"


def test_what_starts_a_job_or_a_workload_is_started_and_stopped_and_no_job_is_waited_for(layout: HostLayout) -> None:
    machine = FakeMachine()
    more = "  nightly: {image: 'r.example/a:1', type: job, schedule: daily}\n"
    more += "  once: {image: 'r.example/a:1', type: job}\n"
    more += "  door: {image: 'r.example/a:1', init: false, sockets: [80]}\n"
    transaction.apply(BASE + more, "host.yaml", context(layout, machine))
    started = [line for line in machine.log if line.startswith("start") and "site" not in line and "db" not in line]
    assert started == [
        "start workload-nightly.timer later",
        "start workload-once.service later",
        "start workload-door.socket",
    ]
    machine.log.clear()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    stopped = {"stop workload-nightly.timer", "stop workload-nightly.service", "stop workload-door.socket"}
    assert stopped <= set(machine.log)


def test_limits_that_were_set_meanwhile_end_with_a_change_before_it_is_settled(layout: HostLayout) -> None:
    forgotten: list[str] = []

    def forget(units: Sequence[str]) -> None:
        assert pending.read(layout) is not None
        forgotten.extend(units)

    where = replace(context(layout, FakeMachine(broken="site:3")), forget_limits=forget)
    transaction.apply(BASE, "host.yaml", where)
    assert forgotten == []
    transaction.apply(NEXT, "host.yaml", where)
    assert set(forgotten) == {f"workload-{key}.service" for key in ("site", "site.a", "site.b")}
    forgotten.clear()
    with pytest.raises(ApplyError):
        transaction.apply(NEXT.replace("site:2", "site:3"), "host.yaml", where)
    assert forgotten == []
    transaction.apply(NEXT.replace("site:2", "site:4"), "host.yaml", replace(where, live=frozenset({"site"})))
    assert forgotten == []


def test_what_is_started_by_hand_only_is_not_started_unless_it_runs(layout: HostLayout) -> None:
    machine = FakeMachine()
    more = "  tool: {image: 'r.example/a:1', autostart: false}\n"
    transaction.apply(BASE + more, "host.yaml", context(layout, machine))
    assert "workload-tool.service" not in machine.running
    transaction.apply(BASE + more.replace("a:1", "a:2"), "host.yaml", context(layout, machine))
    assert "workload-tool.service" not in machine.running
    machine.units("start", ["workload-tool.service"])
    transaction.apply(BASE + more.replace("a:1", "a:3"), "host.yaml", context(layout, machine))
    assert machine.running["workload-tool.service"] == "image=r.example/a:3\n"
    machine.units("stop", ["workload-tool.service"])
    machine.queued = {"workload-tool.service"}  # it waits for another
    transaction.apply(BASE + more.replace("a:1", "a:4"), "host.yaml", context(layout, machine))
    assert machine.running["workload-tool.service"] == "image=r.example/a:4\n"


def test_whether_something_is_started_can_be_said(layout: HostLayout) -> None:
    machine = FakeMachine()
    more = "  tool: {image: 'r.example/a:1', autostart: false}\n"
    where = replace(context(layout, machine), starts={"tool": True, "db": False})
    transaction.apply(BASE + more, "host.yaml", where)
    assert set(machine.running) == {"workload-site.service", "workload-tool.service"}


def test_what_changes_while_it_runs_is_neither_stopped_nor_started(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    other = BASE.replace("db:1}", "db:1, networks: [back]}") + "networks: {back: {}}\n"
    outcome = transaction.apply(other, "host.yaml", replace(context(layout, machine), live=frozenset({"db"})))
    assert [action.subject for action in outcome.actions] == ["back", "db"]
    assert machine.log == ["lay", "workload network"]
    assert "workload-db.service" in machine.running


def test_a_removed_workload_is_stopped_by_its_old_unit(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    transaction.apply(BASE.replace("  db: {image: registry.example/db:1}\n", ""), "x", context(layout, machine))
    assert machine.log == ["stop workload-db.service", "forget db", "lay", "workload network"]
    assert machine.forgiven == ["workload-db.service"]
    assert set(machine.running) == {"workload-site.service"}


def test_who_waits_for_health_goes_on_waiting_while_that_changes(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(WAITING, "host.yaml", context(layout, machine))
    machine.units("start", ["workload-db.healthy.service"])
    transaction.apply(WAITING.replace("db:1,", "db:2,"), "host.yaml", context(layout, machine))
    assert "stop workload-db.service" in machine.log
    assert "stop workload-db.healthy.service" not in machine.log


@pytest.mark.parametrize("wanted", [CHECKED, "version: 1\nhostname: web-1\n"], ids=["nobody waits", "it is removed"])
def test_what_waits_for_health_ends_after_the_last_for_whom_it_did(layout: HostLayout, wanted: str) -> None:
    machine = FakeMachine()
    transaction.apply(WAITING, "host.yaml", context(layout, machine))
    machine.units("start", ["workload-db.healthy.service"])
    machine.log.clear()
    transaction.apply(wanted.replace(", required: true", ""), "host.yaml", context(layout, machine))
    ended = machine.log.index("stop workload-db.healthy.service")
    assert machine.log.index("stop workload-site.service") < ended < machine.log.index("lay")


def test_a_required_workload_that_fails_takes_the_declaration_back(layout: HostLayout) -> None:
    machine = FakeMachine(broken="site:2")
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    with pytest.raises(ApplyError) as caught:
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert "workload site: failed" in caught.value.details
    assert [(each.kind, each.name) for each in caught.value.late] == [("workload", "site")]
    assert "generation 1" in caught.value.hint
    assert in_force(layout) == 1
    assert machine.layer == (layout.generations / "1/etc").resolve()
    assert machine.running["workload-site.service"] == "image=registry.example/site:1\n"
    assert pending.read(layout) is None


@pytest.mark.parametrize("moment", ["stop workload-site", "lay", "workload network"])
def test_what_the_system_refuses_takes_the_declaration_back(layout: HostLayout, moment: str) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.fails_at = moment
    with pytest.raises(ApplyError, match=r"generation 2 was taken back: Too many open files \(/proc\)") as caught:
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert caught.value.late == ()
    assert in_force(layout) == 1
    assert machine.running["workload-site.service"] == "image=registry.example/site:1\n"
    assert pending.read(layout) is None


def test_what_cannot_be_put_in_force_is_taken_back(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    rename = os.replace
    refused: list[Path] = []

    def full(source: Path, target: Path) -> None:
        if Path(target) == layout.current and not refused:
            refused.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ApplyError, match="taken back: No space left on device"):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert refused
    assert in_force(layout) == 1
    assert pending.read(layout) is None


def test_going_back_that_fails_too_is_left_for_the_next_start(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.fails_at, machine.fails = "lay", 2
    with pytest.raises(ApplyError, match="could not be taken back") as caught:
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert "Too many open files" in caught.value.details
    assert "hostd" in caught.value.hint
    assert pending.read(layout) is not None
    with exclusive.lock(layout):
        assert "went back to 1" in transaction.resolve(context(layout, machine))
    assert in_force(layout) == 1
    assert machine.running["workload-site.service"] == "image=registry.example/site:1\n"


def test_an_agent_that_cannot_go_back_starts_and_nothing_is_changed_until_it_can(
    layout: HostLayout, caplog: pytest.LogCaptureFixture
) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.cut_at = "lay"
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    machine.cut_at, machine.fails_at, machine.fails = "", "lay", 2
    HostService(layout, machine).recover()
    assert "not settled yet: Too many open files (/proc)" in caplog.text
    marked = pending.Pending(former=1, wanted=2)
    assert pending.read(layout) == marked
    with pytest.raises(UnsettledError, match="the change before this one is not settled: Too many") as caught:
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert (caught.value.exit_code, pending.read(layout), generation.numbers(layout)) == (75, marked, [1, 2])
    outcome = transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert outcome.notes == ("generation 2 was never seen healthy; went back to 1",)
    assert (outcome.generation, pending.read(layout)) == (3, None)
    assert machine.running["workload-site.service"] == "image=registry.example/site:2\n"


def test_a_paused_workload_that_is_changed_or_removed_runs_on_so_that_it_can_end(
    layout: HostLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine()
    monkeypatch.setattr(unit_control, "thaw", machine.frozen.remove)
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.frozen |= {"workload-site.service", "workload-db.service"}
    transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert machine.running["workload-site.service"] == "image=registry.example/site:2\n"
    assert machine.frozen == {"workload-db.service"}  # nobody asked for anything of this one
    without = NEXT.replace("  db: {image: registry.example/db:1}\n", "")
    transaction.apply(without, "host.yaml", context(layout, machine))
    assert set(machine.running) == {"workload-site.service"}


def test_what_cannot_be_thawed_is_stopped_if_it_has_just_ended_and_else_systemd_says_why_not(
    layout: HostLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))

    def refuse(unit: str) -> None:
        machine.frozen -= ended
        raise StartError(f"Unit {unit} is not active.")

    monkeypatch.setattr(unit_control, "thaw", refuse)
    ended, machine.frozen = {"workload-site.service"}, {"workload-site.service"}
    assert transaction.apply(NEXT, "host.yaml", context(layout, machine)).generation == 2
    ended, machine.frozen = set(), {"workload-site.service"}
    with pytest.raises(ApplyError, match="could not be taken back: Cannot perform operation on frozen unit"):
        transaction.apply(BASE, "host.yaml", context(layout, machine))


def test_a_generation_that_cannot_be_written_changes_nothing(layout: HostLayout) -> None:
    def full(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        raise OSError(errno.ENOSPC, "No space left on device")

    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    with pytest.raises(NotWrittenError, match="generation 2 could not be written: No space left on device") as caught:
        transaction.apply(NEXT, "host.yaml", replace(context(layout, machine), stage=full))
    assert (caught.value.hint, caught.value.late) == ("generation 1 is in force as before", ())
    assert (machine.log, in_force(layout), pending.read(layout)) == ([], 1, None)


def test_a_workload_that_systemd_never_got_to_know_is_taken_back(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.cut_at = "lay"
    with pytest.raises(PowerCutError):
        transaction.apply(BASE + "  new: {image: registry.example/new:1}\n", "host.yaml", context(layout, machine))
    machine.cut_at = ""
    machine.log.clear()
    with exclusive.lock(layout):
        transaction.resolve(context(layout, machine))
    assert machine.log[:2] == ["forget new", "lay"]
    assert in_force(layout) == 1


def test_a_workload_that_is_not_required_may_fail(layout: HostLayout) -> None:
    outcome = transaction.apply(BASE, "host.yaml", context(layout, FakeMachine(broken="db:1")))
    assert in_force(layout) == 1
    assert outcome.notes == ("workload db did not start: workload-db.service failed",)


def test_a_failing_first_declaration_leaves_no_generation_in_force(layout: HostLayout) -> None:
    machine = FakeMachine(broken="site:1")
    with pytest.raises(ApplyError):
        transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert in_force(layout) == 0
    assert machine.layer is None
    assert machine.running == {}


@pytest.mark.parametrize("moment", ["stop workload-site", "lay", "workload network", "start workload-site"])
def test_a_power_cut_is_taken_back_by_the_next_start(layout: HostLayout, moment: str) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.cut_at = moment
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    machine.cut_at = ""
    with exclusive.lock(layout):
        said = transaction.resolve(context(layout, machine))
    assert "went back to 1" in said
    assert in_force(layout) == 1
    assert machine.running["workload-site.service"] == "image=registry.example/site:1\n"
    assert pending.read(layout) is None


def test_a_cut_before_the_swap_leaves_the_former_in_force(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    half = layout.generations / "2.tmp"
    (half / "etc").mkdir(parents=True)
    outcome = transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert outcome.generation == 2
    assert not half.exists()


def test_a_number_is_never_used_twice(layout: HostLayout) -> None:
    machine = FakeMachine(broken="site:2")
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    with pytest.raises(ApplyError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    assert transaction.apply(BASE.replace("site:1", "site:3"), "x", context(layout, machine)).generation == 3


def test_only_one_writes_at_a_time(layout: HostLayout) -> None:
    with exclusive.lock(layout), pytest.raises(BusyError) as caught:
        transaction.apply(BASE, "host.yaml", context(layout, FakeMachine()))
    assert caught.value.exit_code == 75


@contextmanager
def busy(layout: HostLayout) -> Iterator[threading.Event]:
    """Have somebody else change the machine until the event is set."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive.lock(layout):
            held.set()
            free.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    yield free
    free.set()
    holder.join()


def test_a_boot_waits_for_who_changes_the_machine(layout: HostLayout) -> None:
    told: list[str] = []
    with busy(layout) as free:

        def notify(text: str) -> None:
            told.append(text)
            free.set()

        where = replace(context(layout, FakeMachine(), booting=True), notify=notify)
        assert transaction.apply(BASE, "host.yaml", where).generation == 1
    assert told[0] == "waiting for another change of this machine"


def test_who_changes_the_machine_is_waited_for_if_that_is_wanted(layout: HostLayout) -> None:
    held, told = exclusive.lock(layout), threading.Event()
    where = replace(context(layout, FakeMachine()), notify=lambda text: told.set())
    applying = threading.Thread(target=transaction.apply, args=(BASE, "host.yaml", where), kwargs={"wait": 60.0})
    with held:
        applying.start()
        assert told.wait(10)
        assert in_force(layout) == 0
    applying.join(10)
    assert in_force(layout) == 1


@pytest.mark.parametrize("staged", [0, 1])
def test_what_is_not_wanted_any_more_changes_nothing(layout: HostLayout, staged: int) -> None:
    seen: list[str] = []

    def staging(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        seen.append("staged")
        return stage(source, declaration, former, draft)

    def require() -> None:
        if len(seen) == staged:
            raise HostctlError("not wanted any more")

    machine = FakeMachine()
    with pytest.raises(HostctlError, match="not wanted any more"):
        transaction.apply(BASE, "host.yaml", replace(context(layout, machine), stage=staging, require=require))
    assert (len(seen), machine.log, generation.numbers(layout)) == (staged, [], [])
    assert pending.read(layout) is None


def test_what_was_made_from_another_generation_than_that_in_force_is_refused(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert transaction.apply(NEXT, "host.yaml", context(layout, machine), base=1).generation == 2
    machine.log.clear()
    with pytest.raises(OvertakenError, match="generation 2 came between") as caught:
        transaction.apply(BASE, "host.yaml", context(layout, machine), base=1)
    assert caught.value.exit_code == 75
    assert (machine.log, in_force(layout)) == ([], 2)


def test_what_was_made_from_a_generation_on_trial_is_refused_once_that_is_taken_back(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.cut_at = "lay"
    with pytest.raises(PowerCutError):
        transaction.apply(NEXT, "host.yaml", context(layout, machine))
    machine.cut_at = ""
    assert in_force(layout) == 2
    with pytest.raises(OvertakenError):
        transaction.apply(NEXT.replace("db:1", "db:2"), "host.yaml", context(layout, machine), base=2)
    assert in_force(layout) == 1


def test_what_was_overtaken_is_done_again_a_few_times() -> None:
    tries = []

    def deed() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OvertakenError("generation 2 came between")
        return len(tries)

    assert exclusive.anew(deed) == 3
    with pytest.raises(OvertakenError):
        exclusive.anew(lambda: (_ for _ in ()).throw(OvertakenError("always")))


MORE = f"{BASE}  new: {{image: registry.example/new:1}}\n"


def boot_after_a_cut(layout: HostLayout, machine: FakeMachine, source: str) -> None:
    """Cut the power while a declaration is tried, and have systemd start what is in force then."""
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.cut_at = "workload network"
    with pytest.raises(PowerCutError):
        transaction.apply(source, "host.yaml", context(layout, machine))
    machine.cut_at = ""
    machine.lay_etc((layout.current / "etc").resolve())
    machine.reload_units()
    services = [name for name in machine.loaded if name.endswith(".service")]
    machine.units("start", services)
    machine.log.clear()
    machine.forgiven.clear()


def test_a_boot_that_goes_back_ends_what_only_the_other_declaration_had(layout: HostLayout) -> None:
    machine = FakeMachine()
    boot_after_a_cut(layout, machine, MORE.replace("db:1", "db:2"))
    assert "workload-new.service" in machine.running
    with exclusive.lock(layout):
        assert "went back to 1" in transaction.resolve(context(layout, machine, booting=True))
    assert machine.log[:3] == ["stop workload-new.service later", "forget new", "lay"]
    assert machine.forgiven == ["workload-new.service"]
    assert machine.running == {
        f"workload-{name}.service": f"image=registry.example/{name}:1\n" for name in ("site", "db")
    }


class StubbornMachine(FakeMachine):
    """What is stopped later runs on."""

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Do it, unless it is that."""
        if verb != "stop" or block:
            super().units(verb, names, block=block)


def test_a_boot_waits_only_so_long_for_what_it_ends(layout: HostLayout) -> None:
    machine, told, waited = StubbornMachine(), list[str](), list[float]()
    boot_after_a_cut(layout, machine, MORE)
    where = replace(
        context(layout, machine, booting=True), notify=told.append, pause=waited.append, clock=lambda: sum(waited)
    )
    with exclusive.lock(layout):
        transaction.resolve(where)
    assert sum(waited) == activation.STOP_SECONDS
    assert f"not stopped within {activation.STOP_SECONDS:g} s: workload-new.service" in told
    assert machine.log[0] == "lay", "it runs, so what it writes is left to it"
    assert (in_force(layout), pending.read(layout)) == (1, None)


def test_what_was_overtaken_is_done_again_as_long_as_there_is_time() -> None:
    tries = iter(range(exclusive.TRIES * 2))

    def deed() -> int:
        for number in tries:
            raise OvertakenError(f"generation {number} came between")
        return 1

    assert exclusive.anew(deed, seconds=600.0) == 1


def test_during_boot_nothing_waits_and_health_is_for_later(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine, booting=True))
    assert "start workload-site.service later" in machine.log
    assert not any(line.startswith("stop") for line in machine.log)
    assert pending.read(layout) == pending.Pending(former=0, wanted=1, booting=True)
    assert transaction.resolve(context(layout, machine)) == ""  # the boot's health check judges it
    assert in_force(layout) == 1


def test_a_workload_that_a_boot_started_as_it_was_is_started_again_as_it_is(layout: HostLayout) -> None:
    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    machine.log.clear()
    transaction.apply(BASE.replace("site:1", "site:9"), "host.yaml", context(layout, machine, booting=True))
    assert machine.log[-1:] == ["restart workload-site.service later"]


def without_images(layout: HostLayout, machine: FakeMachine) -> Stored:
    """Boot a machine without a generation and without images; return the generation that it makes."""
    boot = replace(context(layout, machine, booting=True), lacking=lambda declaration: ("registry.example/site:1",))
    outcome = transaction.apply(BASE, "credential", boot)
    assert outcome.notes == ("the workloads wait for images that are not here: registry.example/site:1",)
    stored = generation.current(layout)
    assert stored is not None
    return stored


def test_a_boot_that_lacks_images_puts_everything_but_the_workloads_in_force(layout: HostLayout) -> None:
    (layout.esp / "EFI").mkdir(parents=True)
    machine = FakeMachine()
    stored = without_images(layout, machine)
    assert (in_force(layout), stored.record.withheld, stored.declaration) == (1, True, BASE)
    assert (machine.layer, machine.running) == (layout.generations / "1/etc", {})
    assert (stored.path / "withheld").exists()
    assert (stored.path / "etc/hostname").read_text() == "web-1\n"
    pending.settle(layout)
    assert layout.spare_declaration.read_text() == BASE  # not what is left of it
    (problem,) = withheld.problems(layout, stored)
    assert "wait for their images" in problem


def test_the_whole_declaration_is_tried_until_it_is_in_force(layout: HostLayout) -> None:
    def unreachable(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        raise StartError("looking up registry.example/site:1", details="no route to host\nmore")

    machine = FakeMachine(broken="db:1")
    without_images(layout, machine)
    again = context(layout, machine, booting=True)
    with pytest.raises(StartError):
        withheld.complete(replace(again, stage=unreachable))
    stored = generation.current(layout)
    assert stored is not None
    assert stored.record.number == 1
    (problem,) = withheld.problems(layout, stored)
    assert problem.endswith("looking up registry.example/site:1: no route to host")
    outcome = withheld.complete(again)
    assert outcome is not None
    assert (outcome.generation, outcome.former) == (2, 1)
    assert [str(action) for action in outcome.actions] == ["+ workload site: declared", "+ workload db: declared"]
    assert outcome.notes == ("workload db did not start: workload-db.service failed",)  # which takes nothing back
    assert set(machine.running) == {"workload-site.service"}
    assert not (layout.current / "withheld").exists()
    assert withheld.complete(again) is None


@pytest.mark.parametrize("text", [NEXT, "version: 1\nhostname: web-1\n"])
def test_a_declaration_that_is_applied_meanwhile_stays(layout: HostLayout, text: str) -> None:
    machine = FakeMachine()
    without_images(layout, machine)
    outcome = transaction.apply(text, "host.yaml", context(layout, machine))
    assert (outcome.generation, bool(outcome.actions)) == (2, True)
    assert withheld.complete(context(layout, machine, booting=True)) is None
    with pytest.raises(OvertakenError):
        transaction.apply(BASE, "generation 1", context(layout, machine), base=1)
    assert in_force(layout) == 2
    assert withheld.problems(layout, generation.current(layout)) == ()


def test_a_machine_with_a_whole_generation_is_not_asked_for_images(layout: HostLayout) -> None:
    def asked(declaration: HostDeclaration) -> Sequence[str]:
        raise AssertionError(declaration)

    machine = FakeMachine()
    transaction.apply(BASE, "host.yaml", context(layout, machine))
    assert transaction.apply(NEXT, "x", replace(context(layout, machine, booting=True), lacking=asked)).generation == 2


def test_a_release_that_renders_anew_goes_on_without_what_is_withheld(layout: HostLayout) -> None:
    machine = FakeMachine()
    stored = without_images(layout, machine)
    boot = replace(context(layout, machine, booting=True), release="2", lacking=lambda declaration: ("r.example/s:1",))
    assert transaction.apply(stored.declaration, "generation 1", boot).generation == 2
    with exclusive.lock(layout):
        stored = older.understood(boot, lambda: False) or stored
    assert (stored.record.number, stored.record.withheld, stored.declaration) == (2, True, BASE)


def test_old_generations_go_but_not_the_one_in_force(layout: HostLayout) -> None:
    machine = FakeMachine()
    for count in range(1, 9):
        transaction.apply(BASE.replace("site:1", f"site:{count}"), "x", context(layout, machine))
    assert generation.numbers(layout) == [3, 4, 5, 6, 7, 8]
    generation.put_in_force(layout, 3)
    assert generation.prune(layout, keep=1) == [4, 5, 6, 7]
    assert generation.numbers(layout) == [3, 8]


def test_images_stay_while_a_generation_on_the_disk_needs_them(layout: HostLayout) -> None:
    kept: list[frozenset[str]] = []

    def pinning(source: str, declaration: HostDeclaration, former: Stored | None, draft: Draft) -> Content:
        content = stage(source, declaration, former, draft)
        pins = {"site": generation.Pin(reference="r/site:1", digest=f"sha256:{draft.number}")}
        return replace(content, record=replace(content.record, images=pins))

    wanted = replace(context(layout, FakeMachine()), stage=pinning, collect=kept.append)
    for count in range(1, 9):
        transaction.apply(BASE.replace("site:1", f"site:{count}"), "x", wanted)
    on_disk = generation.numbers(layout)
    assert kept[0] == {"sha256:1"}
    assert kept[-1] == {f"sha256:{number}" for number in on_disk}
    assert 1 not in on_disk


def test_images_that_cannot_be_removed_are_a_note(layout: HostLayout) -> None:
    def collect(digests: frozenset[str]) -> None:
        raise OSError(28, "No space left on device")

    outcome = transaction.apply(BASE, "host.yaml", replace(context(layout, FakeMachine()), collect=collect))
    assert in_force(layout) == outcome.generation == 1
    assert "No space left on device" in outcome.notes[0]


def test_a_damaged_generation_says_which(layout: HostLayout) -> None:
    transaction.apply(BASE, "host.yaml", context(layout, FakeMachine()))
    (layout.current / "generation.json").write_text("{}")
    with pytest.raises(generation.GenerationError, match="cannot be read"):
        generation.current(layout)


def test_a_record_comes_back_as_it_was_written() -> None:
    record = Record(
        number=3,
        created="2026-01-01T00:00:00Z",
        release="1.2",
        declaration_sha256="ab",
        images={"site": generation.Pin(reference="r/s:1", digest="sha256:1")},
        uids={"ops": 1000},
        ranges={"site": 0},
        withheld=True,
    )
    assert generation.decode(generation.encode(record)) == record
