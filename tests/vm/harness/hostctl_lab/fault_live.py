"""Faults that need a running host: writes that fail, full file systems, QEMU killed in the middle of an update.

Every host goes on from the machine that the recorded run went on from, and updates from release 1 to 2 as it did.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostctl_qemu import snapshot
from hostctl_qemu.attachment import PLAIN, SECTOR, Attachment, InjectedError, Throttle
from hostctl_qemu.blocklog import read_log
from hostctl_qemu.checker import TABLE_BYTES, TYPE_ESP, TYPES_OF_SLOTS, Checker, Expectation
from hostctl_qemu.gpt import read_gpt
from hostctl_qemu.machine import Forward, free_port
from hostctl_qemu.replay import CrashState, Replay, requests_before
from hostctl_qemu.ssh import Ssh
from hostctl_qemu.state import SSH_PORT
from hostctl_qemu.view import open_disk

from hostctl_lab.crash_boot import Booted, Judge, machine_on
from hostctl_lab.fault_results import Results, Row, judged, pairs
from hostctl_lab.fault_states import BACKUP_BYTES
from hostctl_lab.host import UPDATE_SECONDS, Host
from hostctl_lab.scenario import MEMORY, Direction, Scenario

RESTORE_SECONDS = 120.0
FULL_ESP = "dd if=/dev/zero of=/efi/full bs=1M 2>/dev/null || true; sync"
FULL_VAR = "fallocate -l $(($(df --output=avail -B1 /var | tail -n 1) - 1048576)) /var/full; df /var"


@contextmanager
def going_on(scenario: Scenario, folder: Path, attachment: Attachment) -> Iterator[Host]:
    """Run a host that goes on from where the recorded run began."""
    port = free_port()
    forwards = (Forward(host_port=port, guest_port=SSH_PORT),)
    with snapshot.restore(scenario.base, folder, forwards, attachment) as machine:
        host = Host(machine=machine, ssh=Ssh(folder=scenario.base.config.folder, port=port))
        host.ssh.wait_ready(RESTORE_SECONDS)
        yield host


def places(scenario: Scenario, direction: Direction, each: int) -> dict[str, tuple[int, ...]]:
    """Return sectors that the recorded update wrote, ``each`` of every partition and table that it wrote to."""
    start, end = (requests_before(scenario.requests, mark.log_bytes) for mark in (direction.begin, direction.end))
    disk = scenario.replay.disk(CrashState(kind="cut", durable=start))
    ranges = {"table": (0, TABLE_BYTES), "backup table": (disk.size - BACKUP_BYTES, disk.size)}
    names = dict(zip((TYPE_ESP, *TYPES_OF_SLOTS), ("ESP", "root", "tree", "signature"), strict=True))
    for part in read_gpt(disk).partitions:
        if part.type in names:
            ranges[f"{names[part.type]} {part.number}"] = (part.start, part.start + part.size)
    found = {}
    for name, place in ranges.items():
        written = [request for request in scenario.requests[start:end] if request.touches(*place)]
        if written:
            chosen = (written[index * (len(written) - 1) // max(1, each - 1)] for index in range(each))
            found[name] = tuple(request.start // SECTOR for request in chosen)
    return found


def run_errors(scenario: Scenario, checker: Checker, results: Results, folder: Path) -> None:
    """Let writes of an update fail, one after the other; take it again after each until it succeeds (F31, F32)."""
    direction = scenario.directions[0]
    sectors = {sector: name for name, chosen in places(scenario, direction, 3).items() for sector in chosen}
    log = folder / "errors.log"
    attachment = Attachment(log=log, errors=tuple(InjectedError(sector=sector) for sector in sorted(sectors)))
    run = scenario.folder.name
    with going_on(scenario, folder / "errors", attachment) as host:
        for attempt in range(len(sectors) + 2):
            done = host.run("hostctl", "update", "--despite-hold", "--json", seconds=UPDATE_SECONDS, check=False)
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            host.run("sync", check=False)
            requests = tuple(read_log(log))
            replay = Replay(open_disk(scenario.folder / "base.raw"), log, requests)
            disk = replay.disk(CrashState(kind="cut", durable=len(requests)))
            row = judged(run, "errors", f"EIO, attempt {attempt}", 0, checker.judge(disk, direction.expectation), "")
            row = dataclasses.replace(row, decisive=str(attempt), notes=(*row.notes, said[-400:]))
            results.add(_expect(row, said, "new" if not done.status else "old"))
            if not done.status:
                return
        results.add(_failed(run, "errors", "EIO, the last attempt", "I7", "no attempt without an error succeeded"))


def run_full(scenario: Scenario, results: Results, folder: Path) -> None:
    """Update with a full ESP, which must fail cleanly, and then with a full /var, which must not matter (F32, F36)."""
    run = scenario.folder.name
    with going_on(scenario, folder / "full", PLAIN) as host:
        host.shell(FULL_ESP)
        before = host.entries()
        done = host.run("hostctl", "update", "--despite-hold", "--json", seconds=UPDATE_SECONDS, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        row = Row(run=run, group="full", name="ESP full", seed=0, kind="old", notes=(said[-400:],))
        row = _expect(row, said, "old")
        if not done.status or host.entries() != before:
            row = dataclasses.replace(
                row, problems=(*row.problems, ("I1", f"{before} became {host.entries()}: {said}"))
            )
        results.add(row)
        host.shell("rm /efi/full")
        host.shell(FULL_VAR)
        done = host.run("hostctl", "update", "--despite-hold", "--json", seconds=UPDATE_SECONDS, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        row = Row(run=run, group="full", name="/var full", seed=0, kind="old" if done.status else "new")
        results.add(_expect(row, said, "new"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Odd:
    """A machine that is not as good as it should be, and how an update on it must end."""

    name: str
    staged: bool = True
    """The update must succeed; else it must be refused without harm."""
    memory: int = MEMORY
    cpus: int = 2
    attachment: Attachment = PLAIN
    clock: str = ""


ODD = (
    Odd(name="256 MiB, one processor", memory=256, cpus=1),
    Odd(name="disk of 30 requests a second", attachment=Attachment(throttle=Throttle(iops=30))),
    Odd(name="clock at 1970", clock="1970-01-01T00:00:00"),
    Odd(name="clock ten years ahead", clock="2036-12-01T00:00:00", staged=False),
)


def run_odd(scenario: Scenario, judge: Judge, results: Results, folder: Path) -> None:
    """Boot scarce machines and those with a wrong clock, and update (F59, F84)."""
    wanted = scenario.directions[0].expectation
    for number, odd in enumerate(ODD):
        if (scenario.folder.name, "odd", odd.name, 0, True) in results.rows:
            continue
        disk = scenario.replay.disk(CrashState(kind="cut", durable=0))
        config = dataclasses.replace(
            machine_on(scenario.origin, disk, folder / f"odd-{number}"),
            memory=odd.memory,
            cpus=odd.cpus,
            attachment=odd.attachment,
            clock=odd.clock,
        )
        booted = judge.boot(config, wanted, 0, expected=wanted.old, retry="must" if odd.staged else "refused")
        results.add(boot_row(scenario.folder.name, "odd", odd.name, 0, booted, wanted))


def _expect(row: Row, said: str, kind: str) -> Row:
    problems = list(row.problems)
    if "Traceback" in said:
        problems.append(("I10", f"the command line shows a traceback: {said}"))
    if row.kind != kind:
        problems.append(("I1", f"{row.kind} instead of {kind}: {said}"))
    return dataclasses.replace(row, problems=tuple(problems))


def _failed(run: str, group: str, name: str, invariant: str, text: str) -> Row:
    return Row(run=run, group=group, name=name, seed=0, kind="neither", problems=((invariant, text),))


def run_kills(scenario: Scenario, judge: Judge, results: Results, folder: Path, count: int, seed: int) -> None:
    """Kill QEMU at random moments of an update, so that what it had not written is lost, and boot what is left."""
    direction = scenario.directions[0]
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    last = next(
        mark
        for mark in scenario.recording.between(direction.begin, direction.end)
        if mark.label.endswith("reboot after")
    )
    for number in range(count):
        after = chance.uniform(0, last.seconds - direction.begin.seconds)
        name = f"{direction.label} killed {after:.1f} s into the update"
        if (scenario.folder.name, "kills", name, seed, True) in results.rows:
            continue
        booted = _kill(scenario, judge, folder / f"kill-{number}", direction, after)
        results.add(boot_row(scenario.folder.name, "kills", name, seed, booted, direction.expectation))


def _kill(scenario: Scenario, judge: Judge, folder: Path, direction: Direction, after: float) -> Booted:
    safe: list[int] = []
    judge.canary.watcher = safe.append
    with going_on(scenario, folder, PLAIN) as host:
        words = host.ssh.command(["hostctl", "update", "--despite-hold"])
        quiet = subprocess.DEVNULL
        with subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet) as update:
            threading.Event().wait(after)  # the moment is what the test is about, nothing is waited for
            host.machine.power_cut()
            update.kill()
        config = host.machine.config
    told = max(safe, default=0)
    return judge.boot(config, direction.expectation, told, expected=None, retry="must")


def boot_row(run: str, group: str, name: str, seed: int, booted: Booted, wanted: Expectation) -> Row:
    """Return the row of a state that was booted."""
    kind = "old" if booted.release == wanted.old else "new" if booted.release == wanted.new else "neither"
    return Row(
        run=run,
        group=group,
        name=name,
        seed=seed,
        kind=kind,
        problems=pairs(booted.problems),
        booted=True,
        retried=booted.retried,
        seconds=booted.seconds,
        working=booted.working,
    )
