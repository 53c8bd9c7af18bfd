"""What the edge to the running system reads and asks, and what of the answers is an error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostctl.agent import machine as edge
from hostctl.agent.machine import SystemdMachine, parse_states
from hostctl.layout import HostLayout
from hostctl.run import CommandError, Completed


def test_health_is_that_of_this_run_of_the_workload(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    machine = SystemdMachine(layout)
    pid = layout.runtime / "pids/web"
    said = layout.runtime / "health/web"
    for path in (pid, said):
        path.parent.mkdir(parents=True)
        path.write_text("")
    os.utime(pid, ns=(5, 5))
    assert machine.workload_health("web") == ""
    said.write_text("healthy 5")
    assert machine.workload_health("web") == "healthy"
    os.utime(pid, ns=(6, 6))
    assert machine.workload_health("web") == ""
    pid.unlink()
    assert machine.workload_health("web") == ""


def test_what_a_workload_came_to_is_forgotten_when_it_changes(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    for kind in ("health", "completed"):
        for name in ("web", "other"):
            path = layout.runtime / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    machine = SystemdMachine(layout)
    machine.forget_outcome("web")
    machine.forget_outcome("web")
    assert [path.name for path in sorted(layout.runtime.glob("*/*"))] == ["other", "other"]


@pytest.mark.usefixtures("few_files")
def test_what_a_workload_wrote_is_forgotten_however_deep_it_is(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    upper = layout.workloads / "web/upper"
    upper.mkdir(parents=True)
    folder = os.open(upper, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("a", dir_fd=folder)
        folder, outer = os.open("a", os.O_RDONLY, dir_fd=folder), folder
        os.close(outer)
    os.close(folder)
    for file in (layout.runtime / "workloads/web/config.json", layout.runtime / "pids/web"):
        file.parent.mkdir(parents=True)
        file.touch()
    SystemdMachine(layout).forget_workload("web")
    assert not [path for path in tmp_path.rglob("*") if path.name == "web"]


@pytest.mark.parametrize(
    ("active", "job", "queued"),
    [("inactive", "12", True), ("failed", "12", True), ("inactive", "", False), ("activating", "12", False)],
)
def test_what_is_down_and_has_a_job_is_about_to_be_started(active: str, job: str, *, queued: bool) -> None:
    said = f"Job={job}\nLoadState=loaded\nActiveState={active}\n"
    state = parse_states(said, ["u"], now=1.0)["u"]
    assert (state.queued, state.is_wanted) == (queued, queued or state.is_up)
    assert "Job" in edge.PROPERTIES


def answer(monkeypatch: pytest.MonkeyPatch, status: int) -> list[Sequence[str]]:
    """Let systemctl end with a status; return what it was asked."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_: object) -> Completed:
        asked.append(argv)
        return Completed(argv=tuple(argv), status=status, stdout=b"", stderr=b"Unit x.service not loaded.")

    monkeypatch.setattr(edge, "run", run)
    return asked


def test_what_systemd_has_not_loaded_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answer(monkeypatch, edge.NOT_LOADED)
    SystemdMachine(HostLayout(tmp_path)).units("stop", ["x.service", "y.service"])
    assert asked == [["systemctl", "stop", "--", "x.service", "y.service"]]


@pytest.mark.parametrize(("verb", "status"), [("stop", 1), ("start", edge.NOT_LOADED), ("restart", 1)])
def test_any_other_failure_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: edge.Verb, status: int
) -> None:
    answer(monkeypatch, status)
    with pytest.raises(CommandError, match=f"exit status {status}"):
        SystemdMachine(HostLayout(tmp_path)).units(verb, ["x.service"])


def test_no_units_are_nothing_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answer(monkeypatch, 1)
    SystemdMachine(HostLayout(tmp_path)).units("start", [])
    assert asked == []
