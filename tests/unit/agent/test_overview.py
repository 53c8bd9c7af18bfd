"""What ``status``, ``ps``, ``logs`` and ``exec`` show and ask for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.agent import generation, overview, withheld
from hostctl.agent.generation import Content, Pin, Record, Stored
from hostctl.agent.machine import SystemdMachine, UnitState
from hostctl.agent.overview import Status, UnknownWorkloadError, WorkloadStatus
from hostctl.cli import exec as exec_verb
from hostctl.cli import logs, ps, status
from hostctl.cli.tables import duration, table
from hostctl.errors import UsageError
from hostctl.layout import HostLayout
from hostctl.update.outlook import Outlook

LABELS = ("hostctl-esp", "edge_1", "edge_1-verity", "edge_1-sig", "edge_2", "edge_2-verity", "_empty", "other_9")


def row(state: str = "active", health: str = "") -> WorkloadStatus:
    return WorkloadStatus(
        name="site",
        image="r.example/site:1",
        digest="sha256:0",
        state=state,
        sub="running",
        health=health,
        main_pid=1,
        restarts=2,
        up_for=61.0,
    )


def test_slots_are_told_by_their_labels() -> None:
    assert overview.releases(LABELS, "2") == ("1", "2")
    assert overview.releases(LABELS, "") == ()
    assert overview.releases((), "2") == ()


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ((), "running"),
        ((row(), row(health="healthy")), "running"),
        ((row(), row("failed")), "degraded"),
        ((row("missing"),), "degraded"),
        ((row(health="unhealthy"), row("activating")), "degraded"),
        ((row(), row("activating")), "starting"),
        ((row(), row("waiting")), "running"),
    ],
)
def test_the_machine_in_one_word(rows: tuple[WorkloadStatus, ...], word: str) -> None:
    assert overview.judge(rows) == word
    assert overview.judge(rows, ["/var can only be read"]) == "degraded"


def test_what_is_started_by_a_schedule_waits_in_between(tmp_path: Path) -> None:
    stored = Stored(record=Record(number=1, created="", release="1", declaration_sha256=""), path=tmp_path)
    state = UnitState(name="w", active="inactive", sub="dead", result="success", main_pid=0, restarts=0, active_for=0)
    assert overview.workload_status("job", stored, state, "").state == "inactive"
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "workload-job.timer").touch()
    assert overview.workload_status("job", stored, state, "").state == "waiting"


def test_what_is_started_by_hand_only_was_created_until_it_is(tmp_path: Path) -> None:
    stored = Stored(record=Record(number=1, created="", release="1", declaration_sha256=""), path=tmp_path)
    state = UnitState(
        name="w", active="inactive", sub="dead", result="success", main_pid=0, restarts=0, active_for=0, started=False
    )
    seen = overview.workload_status("run-x", stored, state, "")
    assert (seen.state, seen.word, overview.judge([seen])) == ("created", "created", "running")
    assert overview.workload_status("run-x", stored, replace(state, started=True), "").word == "exited"
    links = tmp_path / "etc/systemd/system/multi-user.target.wants"
    links.mkdir(parents=True)
    (links / "workload-run-x.service").symlink_to("../workload-run-x.service")
    assert overview.workload_status("run-x", stored, state, "").state == "inactive"


def test_a_state_that_is_not_kept_is_a_problem(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    (tmp_path / "var").mkdir()
    assert overview.state_problems(layout) == ()
    assert overview.state_problems(layout, lambda path: path == tmp_path / "var") == (
        f"{tmp_path}/var can only be read: nothing is kept",
    )
    layout.runtime.mkdir(parents=True)
    layout.state_lost.write_text("the state cannot be mounted\n")
    assert overview.state_problems(layout) == ("the state cannot be mounted",)


def test_a_row_says_what_the_unit_and_the_pin_say() -> None:
    record = Record(
        number=1,
        created="",
        release="1",
        declaration_sha256="",
        images={"site": Pin(reference="r/s:1", digest="sha256:1")},
    )
    stored = Stored(record=record, path=Path("/"))
    state = UnitState(
        name="u", active="active", sub="running", result="success", main_pid=9, restarts=1, active_for=3.21
    )
    seen = overview.workload_status("site", stored, state, "healthy")
    assert (seen.image, seen.digest, seen.state, seen.health, seen.up_for) == (
        "r/s:1",
        "sha256:1",
        "active",
        "healthy",
        3.2,
    )
    assert overview.workload_status("site", stored, None, "healthy").state == "missing"
    assert overview.workload_status("site", stored, None, "healthy").health == ""


def test_an_unknown_workload_names_the_known(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    with pytest.raises(UnknownWorkloadError) as caught:
        overview.require("nope", layout)
    assert "no workloads" in caught.value.hint
    folder = layout.generations / "1"
    folder.mkdir(parents=True)
    record = Record(
        number=1, created="", release="", declaration_sha256="", images={"site": Pin(reference="r/s:1", digest="d")}
    )
    (folder / "generation.json").write_bytes(generation.encode(record))
    generation.put_in_force(layout, 1)
    with pytest.raises(UnknownWorkloadError) as caught:
        overview.require("nope", layout)
    assert "site" in caught.value.hint
    assert overview.require("site", layout).record == record


def test_one_that_was_run_is_found_without_its_prefix_where_no_other_is_called_so(tmp_path: Path) -> None:
    pin = Pin(reference="r.example/x:1", digest=f"sha256:{'1' * 64}")
    names = ("web", "run-web", "run-cache", "run-shop")
    record = Record(
        number=1,
        created="",
        release="1",
        declaration_sha256="",
        images=dict.fromkeys(names, pin),
        replicas={"run-shop": 2},
    )
    found = {name: record.named(name) for name in ("web", "run-web", "cache", "run-cache", "shop.2", "nope")}
    assert found == {
        "web": ("web",),
        "run-web": ("run-web",),
        "cache": ("run-cache",),
        "run-cache": ("run-cache",),
        "shop.2": ("run-shop.2",),
        "nope": (),
    }
    assert logs.units(record, "cache")[0] == "workload-run-cache.service"
    layout = HostLayout(root=tmp_path)
    generation.store(layout, Content(record=record, declaration="", etc={}, bundles={}, network=b"{}"))
    generation.put_in_force(layout, 1)
    assert [overview.called(name, layout) for name in ("web", "cache", "run-cache")] == [
        "web",
        "run-cache",
        "run-cache",
    ]
    with pytest.raises(overview.UnknownWorkloadError):
        overview.called("nope", layout)


def test_workloads_that_wait_for_their_images_are_a_problem(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    kernel = tmp_path / "proc/sys/kernel/hostname"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("web-1\n")
    record = Record(number=1, created="now", release="1", declaration_sha256="", withheld=True)
    generation.store(layout, Content(record=record, declaration="", etc={}, bundles={}, network=b"{}"))
    generation.put_in_force(layout, 1)
    withheld.note(layout, "looking up r.example/site:1: unauthorized")
    seen = overview.status(layout, SystemdMachine(layout))
    assert (seen.state, len(seen.problems)) == ("degraded", 1)
    assert "wait for their images" in status.text(seen)
    assert "looking up r.example/site:1: unauthorized" in status.text(seen)
    with pytest.raises(overview.UnknownWorkloadError) as caught:
        overview.require("site", layout)
    assert "wait for their images" in caught.value.hint


def test_status_and_ps_for_a_terminal() -> None:
    shown = Status(
        hostname="web-1",
        release="2",
        releases=("1", "2"),
        bad=("3",),
        generation=3,
        generation_created="2026-01-01T00:00:00Z",
        state="running",
        problems=("/var can only be read: nothing is kept",),
        workloads=(row(),),
    )
    assert status.text(shown).splitlines() == [
        "web-1: running",
        "  problem     /var can only be read: nothing is kept",
        "  release     2  (other slot: 1)",
        "  bad         3  (`hostctl history` says why)",
        "  generation  3  of 2026-01-01T00:00:00Z",
        "",
        "WORKLOAD  STATE   HEALTH  UP",
        "site      active  -       1m 1s",
    ]
    updates = Outlook(held="on hold by ops", waits="this is not shown", problem="no answer", silent_since="2026-01-01")
    assert status.text(shown, updates).splitlines()[5:8] == [
        "  updates     on hold by ops",
        "  repository  no answer",
        "  repository  no word that can be trusted since 2026-01-01",
    ]
    assert ps.text((row(),)).splitlines()[1].split() == [
        "site", "r.example/site:1", "Up", "1m", "1s", "-", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "-"), (5.9, "5s"), (61, "1m 1s"), (3660, "1h 1m"), (90000, "1d 1h")]
)
def test_time_spans(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_tables_are_aligned() -> None:
    assert table(("A", "B"), [("long", "x")]) == "A     B\nlong  x"


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    exec_verb.configure(parser)
    return parser.parse_args(words)


def test_exec_takes_what_docker_takes() -> None:
    words = ("--user", "www-data:5", "-e", "A=1", "-w", "/srv", "-it", "site", "--", "ls", "-l")
    request = exec_verb.request(parsed(*words), terminal=True)
    assert (request.argv, request.user, request.workdir, request.terminal) == (("ls", "-l"), "www-data:5", "/srv", True)
    assert request.env[0] == "A=1"
    assert request.env[1].startswith("TERM=")
    assert exec_verb.request(parsed("-T", "site", "ls"), terminal=True).terminal is False
    assert exec_verb.request(parsed("site", "ls"), terminal=False).env == ()
    for wrong in ("site",), ("-t", "site", "ls"), ("--user=", "site", "ls"):
        with pytest.raises(UsageError):
            exec_verb.request(parsed(*wrong), terminal=False)
