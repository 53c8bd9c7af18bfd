"""What is done to running workloads: what is refused, and what systemd is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.agent import control, event_log, overview, pausing, unit_control
from hostctl.agent.bus import Call
from hostctl.agent.control import TimeLimitError, WorkloadControl
from hostctl.agent.machine import SystemdMachine, UnitState, Verb, exit_status, parse_states
from hostctl.agent.overview import NotRunningError, UnknownWorkloadError
from hostctl.agent.pausing import Freezer
from hostctl.agent.unit_control import SignalError
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.run import CommandTimeoutError

RECORD = {
    "number": 3,
    "created": "2026-01-01T00:00:00+00:00",
    "release": "1",
    "declaration_sha256": "0",
    "images": {"web": {"reference": "r.example/web:1", "digest": "sha256:0"}},
    "uids": {},
    "ranges": {"web": 0},
}


class Stopped(SystemdMachine):
    """A machine on which no workload runs."""

    def states(self, names: object) -> Mapping[str, UnitState]:
        """Know of no unit."""
        del names
        return {}


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    folder = layout.generations / "3"
    folder.mkdir(parents=True)
    (folder / "generation.json").write_text(json.dumps(RECORD))
    (folder / "network.json").write_text(json.dumps({"workloads": {"web": {"ports": ["8080:80", "[::1]:53:53/udp"]}}}))
    layout.current.symlink_to("generations/3")
    return layout


def call(*arguments: str) -> Call:
    return Call(uid=0, arguments=arguments, descriptors=(), notify=lambda text: None)


class Running(SystemdMachine):
    """A machine on which every unit runs; ``log`` is what it was told."""

    paused = False

    def __init__(self, layout: HostLayout) -> None:
        super().__init__(layout)
        self.log: list[str] = []

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Know of each that it is active."""
        up = UnitState(
            name="", active="active", sub="running", result="success", main_pid=9, restarts=0, active_for=9.0
        )
        return dict.fromkeys(names, replace(up, paused=self.paused))

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Remember it."""
        del block
        self.log += [f"{verb} {name}" for name in names]


CHECKS = ["stop workload-web.health.timer", "stop workload-web.health.service"]
RUNS_ON = ["thaw workload-web.service", "start workload-web.health.timer"]


@pytest.mark.parametrize(
    ("method", "done"), [("Pause", [*CHECKS, "freeze workload-web.service"]), ("Unpause", RUNS_ON)]
)
@pytest.mark.parametrize("at", ["", "stop workload-web.health.service", "freeze", "thaw"])
def test_an_agent_that_is_killed_at_a_pause_leaves_no_workload_that_runs_unchecked(
    layout: HostLayout, method: str, done: list[str], at: str
) -> None:
    machine = Running(layout)
    units = machine.units
    freezer = Freezer(*(lambda unit, verb=verb: did(f"{verb} {unit}") for verb in ("freeze", "thaw")))
    taken_back: list[str] = []

    def did(what: str) -> None:
        machine.log.append(what)
        if at and what.startswith(at) and not taken_back:  # killed here, so this is what the next agent does
            taken_back.append(what)
            former = machine.log.copy()
            machine.log.clear()
            pausing.recover(layout, machine, freezer)
            taken_back.extend(machine.log)
            machine.log[:] = former

    def told(verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        units(verb, (), block=block)
        for name in names:
            did(f"{verb} {name}")

    machine.units = told  # type: ignore[method-assign]
    methods = {each.name: each for each in WorkloadControl(layout, machine, freezer=freezer).methods()}
    methods[method].handler(call("web"))
    assert machine.log == done
    assert taken_back[1:] == (RUNS_ON if taken_back else [])
    assert pausing.recover(layout, machine, freezer) == ()


def test_a_workload_that_cannot_be_paused_is_checked_again(layout: HostLayout) -> None:
    def refuse(unit: str) -> None:
        raise CommandTimeoutError(f"systemctl freeze {unit}")

    machine = Running(layout)
    freezer = Freezer(refuse, lambda unit: machine.log.append(f"thaw {unit}"))
    methods = {each.name: each for each in WorkloadControl(layout, machine, freezer=freezer).methods()}
    with pytest.raises(CommandTimeoutError):
        methods["Pause"].handler(call("web"))
    assert machine.log == [*CHECKS, *RUNS_ON]


def test_a_paused_workload_runs_on_and_is_checked_before_it_gets_a_signal(
    layout: HostLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Running(layout)
    monkeypatch.setattr(unit_control, "kill", lambda unit, signal: machine.log.append(f"kill {unit} {signal}"))
    freezer = Freezer(lambda unit: None, lambda unit: machine.log.append(f"thaw {unit}"))
    verbs = WorkloadControl(layout, machine, freezer=freezer)
    verbs.kill(call("web", "KILL"))
    assert machine.log == ["kill workload-web.service SIGKILL"]
    machine.log.clear()
    machine.paused = True
    verbs.kill(call("web", "KILL"))
    assert machine.log == [*RUNS_ON, "kill workload-web.service SIGKILL"]


def test_only_declared_workloads_that_run_are_signalled_and_paused(layout: HostLayout) -> None:
    methods = {method.name: method for method in WorkloadControl(layout, Stopped(layout)).methods()}
    assert set(methods) == {"Start", "Stop", "Restart", "Kill", "Pause", "Unpause", "SetLimits", "ResetLimits"}
    assert all(method.root_only and len(method.takes) == method.strings for method in methods.values())
    for method in methods.values():
        with pytest.raises(UnknownWorkloadError):
            method.handler(call("nope", "9"))
    for name in ("Kill", "Pause", "Unpause"):
        with pytest.raises(NotRunningError):
            methods[name].handler(call("web", "TERM"))
    with pytest.raises(SignalError):
        methods["Kill"].handler(call("web", "TERM; reboot"))
    with pytest.raises(TimeLimitError):
        methods["Stop"].handler(call("web", "-1"))


class Jobs(SystemdMachine):
    """A machine with one job, whose units are asked for things."""

    def __init__(self, layout: HostLayout, main_pid: int, active: str) -> None:
        super().__init__(layout)
        self.main_pid, self.active = main_pid, active
        self.asked: list[tuple[str, tuple[str, ...], bool]] = []

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Know of the service."""
        fields = {"sub": "", "result": "", "restarts": 0, "active_for": 0.0}
        made = {name: UnitState(name=name, active=self.active, main_pid=self.main_pid, **fields) for name in names}  # type: ignore[arg-type]
        return {name: state for name, state in made.items() if name.endswith(".service")}

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Note it."""
        self.asked.append((verb, tuple(names), block))


@pytest.mark.parametrize(
    ("kind", "active", "main_pid", "block", "verb"),
    [
        ("job", "inactive", 0, False, "start"),
        ("job", "activating", 7, False, "start"),
        ("job", "active", 0, False, "restart"),  # it was completed
        ("service", "active", 0, True, "start"),
    ],
)
def test_a_job_is_started_without_waiting_and_again_when_it_was_completed(
    layout: HostLayout, kind: str, active: str, main_pid: int, *, block: bool, verb: str
) -> None:
    host = f"version: 1\nhostname: a\nworkloads: {{web: {{image: 'r.example/web:1', type: {kind}}}}}\n"
    (layout.current / "host.yaml").write_text(host)
    machine = Jobs(layout, main_pid, active)
    WorkloadControl(layout, machine).start(call("web"))
    assert machine.asked == [(verb, ("workload-web.service",), block)]


def test_the_end_of_what_was_just_asked_to_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    before = {"MainPID": "0", "ExecMainPID": "1", "ExecMainCode": "1", "ExecMainStatus": "3", "Job": "12"}
    running = {"MainPID": str(child.pid), "ExecMainPID": str(child.pid), "ExecMainCode": "0", "Job": "12"}
    ended = {"MainPID": "0", "ExecMainPID": str(child.pid), "ExecMainCode": "1", "ExecMainStatus": "7", "Job": ""}
    said = iter([before, before, running, ended])
    monkeypatch.setattr(unit_control, "show", lambda units, properties: [next(said)])
    assert unit_control.await_end("workload-web.service") == 7
    child.wait()
    monkeypatch.setattr(unit_control, "show", lambda units, properties: [before])
    with pytest.raises(HostctlError, match="was not started within"):
        unit_control.await_end("workload-web.service", 0.05)


@pytest.mark.parametrize(
    ("text", "name"),
    [("TERM", "SIGTERM"), ("sighup", "SIGHUP"), ("9", "SIGKILL"), ("34", "SIGRTMIN+0"), ("rtmin+3", "SIGRTMIN+3")],
)
def test_signals_have_names_and_numbers(text: str, name: str) -> None:
    assert unit_control.signal_name(text) == name


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "NOPE", "SIGRTMIN+99", "SIGTERM ", "１"])  # noqa: RUF001
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(SignalError):
        unit_control.signal_name(text)


@pytest.mark.parametrize("text", ["", "x", "-0.1", "3601", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(TimeLimitError):
        control.seconds(text)
    assert control.seconds("2.5") == 2.5


def test_exit_statuses_are_those_of_shells() -> None:
    assert exit_status({"ExecMainCode": "1", "ExecMainStatus": "7"}) == 7
    assert exit_status({"ExecMainCode": "2", "ExecMainStatus": "9"}) == 137
    assert exit_status({}) == 0
    frozen = "LoadState=loaded\nActiveState=active\nFreezerState=frozen\nMainPID=3\nExecMainCode=0\n"
    assert parse_states(frozen, ["u"], now=1.0)["u"].paused
    assert not parse_states(frozen.replace("frozen", "running"), ["u"], now=1.0)["u"].paused


def test_a_unit_that_something_is_about_to_be_done_to_is_known() -> None:
    shown = "LoadState=loaded\nActiveState=inactive\n"
    queued = [parse_states(text, ["u"], now=1.0)["u"].queued for text in (shown, f"{shown}Job=\n", f"{shown}Job=7\n")]
    assert queued == [False, False, True]


def test_ports_are_read_from_the_plan(layout: HostLayout) -> None:
    stored = overview.require("web", layout)
    assert overview.published(stored) == {"web": ("8080:80", "[::1]:53:53/udp")}
    (stored.path / "network.json").write_text("[]")
    assert overview.published(stored) == {}


JOURNAL_LINE = {
    "__REALTIME_TIMESTAMP": "1764171749123456",
    "_PID": "1",
    "UNIT": "workload-web.service",
    "MESSAGE_ID": "98e322203f7a4ed290d09fe03c09fe15",
    "EXIT_CODE": "exited",
    "EXIT_STATUS": "7",
}


def test_systemds_messages_are_events() -> None:
    event = event_log.parse(json.dumps(JOURNAL_LINE))
    assert event is not None
    assert (event.type, event.action, event.name) == ("workload", "die", "web")
    assert event.time == "2025-11-26T15:42:29.123+00:00"
    assert event.attributes == {"exit_code": "exited", "exit_status": "7"}


@pytest.mark.parametrize(
    ("number", "message", "action"),
    [
        ("7ad2d189f7e94e70a38c781354912448", "workload-web.service: Deactivated successfully.", "die"),
        ("7d4958e842da4a758f6c1cdc7b36dcc5", "Starting workload-web.service - Workload web...", None),
        ("39f53479d3a045ac8e11786248231fbf", "Started workload-web.service - Workload web.", "start"),
        ("7d4958e842da4a758f6c1cdc7b36dcc5", "Starting workload-web.service - Job web...", "start"),
        ("39f53479d3a045ac8e11786248231fbf", "Finished workload-web.service - Job web.", "die"),
        ("7d4958e842da4a758f6c1cdc7b36dcc5", "Starting workload-web.service - Scheduled job web...", "start"),
        (
            "39f53479d3a045ac8e11786248231fbf",
            "Finished workload-web.service - Scheduled job web.",
            None,
        ),  # the first one comes too
        ("9d1aaa27d60140bd96365438aad20286", "Stopped workload-web.service - Job web.", "stop"),
    ],
)
def test_an_end_that_is_none_of_failure_is_one_and_a_job_starts_when_it_does(
    number: str, message: str, action: str | None
) -> None:
    line = {name: value for name, value in JOURNAL_LINE.items() if not name.startswith("EXIT")}
    event = event_log.parse(json.dumps({**line, "MESSAGE_ID": number, "MESSAGE": message}))
    assert (event.action if event else None) == action
    assert (event.attributes if event else {}) == ({"result": "success"} if action == "die" else {})
    assert f"MESSAGE_ID={number}" in event_log.matches()


@pytest.mark.parametrize(
    "changes",
    [
        {"_PID": "77"},
        {"UNIT": "ssh.service"},
        {"UNIT": "workload-web.health.service"},
        {"UNIT": ["workload-web.service"]},
        {"MESSAGE_ID": "0"},
        {"HOSTCTL_EVENT": "1", "_UID": "268435456", "MESSAGE_ID": "0"},
        {"__REALTIME_TIMESTAMP": "x"},
        {"HOSTCTL_EVENT": "1", "_UID": "0", "HOSTCTL_ATTRIBUTES": "[]"},
    ],
)
def test_what_others_say_is_no_event(changes: dict[str, object]) -> None:
    assert event_log.parse(json.dumps({**JOURNAL_LINE, **changes})) is None
    assert event_log.parse("{") is None


def test_fields_of_the_journal_may_hold_anything() -> None:
    assert event_log.encode({"A": "x\ny"}) == b"A\n\x03\0\0\0\0\0\0\0x\ny\n"


def test_the_end_of_a_process_is_told_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input(); raise SystemExit(7)"], stdin=subprocess.PIPE)
    running = {"MainPID": str(child.pid), "ExecMainPID": str(child.pid), "ExecMainCode": "0", "ExecMainStatus": "0"}
    ended = {**running, "MainPID": "0", "ExecMainCode": "1", "ExecMainStatus": "7"}

    def show(units: object, properties: object) -> list[Mapping[str, str]]:  # stands for systemd, which is not here
        del units, properties
        return [running if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None else ended]

    monkeypatch.setattr(unit_control, "show", show)
    with pytest.raises(HostctlError, match="did not end within"):
        unit_control.await_end("workload-web.service", 0.05)
    child.communicate(b"\n")
    assert exit_status(ended) == 7


def test_events_of_an_instance_are_the_workloads() -> None:
    event = event_log.parse(json.dumps({**JOURNAL_LINE, "UNIT": "workload-web.b.service"}))
    assert event is not None
    assert (event.name, event.attributes["instance"]) == ("web", "b")
    assert event_log.parse(json.dumps({**JOURNAL_LINE, "UNIT": "workload-web.secrets.service"})) is None


@pytest.mark.parametrize("ends", [False, True])
def test_an_impatient_restart_kills_the_run_that_was_there_and_no_other(
    monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    old, new = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    calls: list[list[str]] = []

    def run(words: list[str], *, timeout: float) -> None:  # stands for systemctl, whose job takes longer than is waited
        calls.append([*words, f"{timeout:.0f}"])
        if len(calls) == 1:
            if ends:
                old.communicate(b"\n")
            raise CommandTimeoutError("systemctl took too long")

    monkeypatch.setattr(unit_control, "show", lambda units, properties: [{"MainPID": str(old.pid)}])
    monkeypatch.setattr(unit_control, "run", run)
    unit_control.stop_within("restart", "workload-web.service", 1)
    assert [call[:2] for call in calls] == [["systemctl", "restart"], ["systemctl", "start"]]
    assert old.wait(10) == (0 if ends else -signal.SIGKILL)
    assert new.poll() is None
    new.communicate(b"\n")


def test_what_has_no_process_is_only_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(unit_control, "show", lambda units, properties: [{"MainPID": "0"}])
    monkeypatch.setattr(unit_control, "run", lambda words, timeout: calls.append(words))
    unit_control.stop_within("stop", "workload-web.service", 0)
    assert calls == [["systemctl", "stop", "--", "workload-web.service"]]
