"""A sample of what `script/faults` does at length: one update whose writes are logged, and disks that cuts leave of it.

The update meets a write error first. Then its log is cut at the edges of stages, and at every flush with subsets of
what was not flushed; all states are judged offline, some are booted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostctl_lab.canary import Canary
from hostctl_lab.crash_boot import Judge, Origin, Retry, machine_on
from hostctl_lab.host import UPDATE_SECONDS, Host
from hostctl_lab.releases import NAME, Lab
from hostctl_lab.resources import held
from hostctl_lab.server import RepositoryServer
from hostctl_qemu.attachment import SECTOR, Attachment, InjectedError
from hostctl_qemu.blocklog import Request, read_log
from hostctl_qemu.checker import TABLE_BYTES, TYPE_ESP, TYPES_OF_SLOTS, Checker, Expectation, Verdict
from hostctl_qemu.gpt import read_gpt
from hostctl_qemu.recording import Recorder, Recording
from hostctl_qemu.replay import CrashState, Replay, crash_states, requests_before
from hostctl_qemu.snapshot import Snapshot
from hostctl_qemu.view import DiskView, make_raw, open_disk

STATES = 200
SEED = 3
WANTED = Expectation(name=NAME, old="1", new="2")
BAD_BYTE = 40 << 20  # in the root of the slot that is written


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An update up to its restart, and all that is needed to cut it."""

    origin: Origin
    recording: Recording
    requests: tuple[Request, ...]
    replay: Replay
    checker: Checker
    refused: str
    """What the attempt with the write error said."""
    failed_at: int
    """Length of the log then."""
    safe: tuple[tuple[int, int], ...]

    def state(self, log_bytes: int) -> CrashState:
        """Return the state of the disk when the log had this length."""
        return CrashState(kind="cut", durable=requests_before(self.requests, log_bytes))

    def judge(self, state: CrashState) -> Verdict:
        """Judge a state."""
        return self.checker.judge(self.replay.disk(state), WANTED)


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    with Canary() as canary:
        yield canary


@pytest.fixture(scope="module")
def cut(
    booted: Snapshot,
    go_on: Callable[..., Host],
    declaration: str,
    lab: Lab,
    server: RepositoryServer,
    next_repository: Path,
    canary: Canary,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cut]:
    """Return an update that was logged. Its machine's disk is the snapshot's with one bad sector."""
    folder = tmp_path_factory.mktemp("cut")
    raw, log = make_raw(booted.config.disk, "qcow2", folder / "base.raw"), folder / "writes.log"
    base = open_disk(raw)
    root = [part for part in read_gpt(base).partitions if part.type == TYPES_OF_SLOTS[0]][1]
    bad = InjectedError(sector=(root.start + BAD_BYTE) // SECTOR)
    host = go_on(booted, folder / "run", Attachment(log=log, errors=(bad,)))
    server.folder = next_repository
    safe: list[tuple[int, int]] = []
    canary.watcher = lambda number: safe.append((log.stat().st_size, number))
    host.apply(declaration + canary.declaration())
    assert canary.wait_next(60), "the workload writes"
    resources = held(host)
    recorder = Recorder(host.machine, "failed")
    refused = host.fails("hostctl", "update", "--json", seconds=UPDATE_SECONDS)
    failed_at = recorder.mark("end").log_bytes
    recorder.prefix = "again"
    assert host.update()["staged"] == "2"
    host.run("sync")
    recorder.mark("end")
    config = dataclasses.replace(host.machine.config, folder=booted.config.folder)
    host.machine.quit()
    requests = tuple(read_log(log, strict=True))
    yield Cut(
        origin=Origin(config=config, raw=raw, resources=resources, repositories={"2": next_repository}),
        recording=recorder.stop(),
        requests=requests,
        replay=Replay(base, log, requests),
        checker=Checker(lab.keys() / "secure-boot.crt"),
        refused=refused,
        failed_at=failed_at,
        safe=tuple(safe),
    )
    base.files.close()


@pytest.fixture
def boot(cut: Cut, server: RepositoryServer, canary: Canary, tmp_path: Path) -> Callable[[CrashState, Retry], None]:
    """Return what boots a state and asks the host about every invariant."""

    def start(state: CrashState, retry: Retry) -> None:
        verdict = cut.judge(state)
        assert verdict.problems == ()
        end = cut.requests[state.durable - 1].end
        safe = max((number for size, number in cut.safe if size <= end), default=0)
        config = machine_on(cut.origin, cut.replay.disk(state), tmp_path / "boot")
        expected = {"old": "1", "new": "2"}[verdict.kind]
        booted = Judge(cut.origin, server, canary).boot(config, WANTED, safe, expected=expected, retry=retry)
        assert booted.problems == ()

    return start


def test_a_write_error_ends_the_update_cleanly(cut: Cut) -> None:
    assert "Traceback" not in cut.refused
    verdict = cut.judge(cut.state(cut.failed_at))
    assert (verdict.kind, verdict.problems) == ("old", ())


def test_every_edge_of_every_stage_leaves_a_bootable_disk(cut: Cut) -> None:
    marks = cut.recording.between(cut.recording.mark("again metadata before"), cut.recording.mark("again end"))
    verdicts = {mark.label: cut.judge(cut.state(mark.log_bytes)) for mark in marks}
    assert {label: verdict.problems for label, verdict in verdicts.items() if verdict.problems} == {}
    assert verdicts["again commit before"].kind == "old"
    assert verdicts["again commit after"].kind == "new"


def test_lost_reordered_and_torn_writes_leave_a_bootable_disk(cut: Cut) -> None:
    states = crash_states(cut.requests, STATES, SEED, focus(cut.replay.disk(CrashState(kind="cut", durable=0))))
    assert len(states) >= STATES
    broken = {state.name: verdict.problems for state in states if (verdict := cut.judge(state)).problems}
    assert broken == {}


def test_a_cut_in_the_middle_of_the_root_is_survived(cut: Cut, boot: Callable[[CrashState, Retry], None]) -> None:
    boot(cut.state(cut.recording.mark("again root middle").log_bytes), "must")


def test_a_cut_after_the_commit_is_survived(cut: Cut, boot: Callable[[CrashState, Retry], None]) -> None:
    boot(cut.state(cut.recording.mark("again commit after").log_bytes), "no")


def test_a_cut_that_loses_half_of_the_unflushed_writes_is_survived(
    cut: Cut, boot: Callable[[CrashState, Retry], None]
) -> None:
    disk = cut.replay.disk(CrashState(kind="cut", durable=0))
    states = [state for state in crash_states(cut.requests, STATES, SEED, focus(disk)) if state.kind == "subset"]
    boot(max(states, key=lambda state: len(state.kept)), "no")


def focus(disk: DiskView) -> tuple[tuple[int, int], ...]:
    """Return the ranges that decide what is booted."""
    esp = next(part for part in read_gpt(disk).partitions if part.type == TYPE_ESP)
    return (0, TABLE_BYTES), (esp.start, esp.start + esp.size)
