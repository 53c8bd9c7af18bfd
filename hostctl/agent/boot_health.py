"""The boot's health check: blesses nothing itself, but decides what a boot that is not healthy leads to.

While a boot is being tried (the boot loader counts it), a release under which the machine is not healthy is marked bad
and the machine reboots into the other one. A release that was blessed before is never left for a failing check: the
host stays up and says that it is degraded. So does one whose declaration is not in force, or only without its workloads
because images are not to be had: no other release would help. What earlier boots left behind is noted first, whatever
becomes of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl.agent import aftermath, exclusive, generation, health, parsed, pending, withheld
from hostctl.agent import apply as transaction
from hostctl.agent.aftermath import Aftermath
from hostctl.agent.apply import Context
from hostctl.agent.generation import Stored
from hostctl.agent.machine import NETWORK_UNIT, workload_unit
from hostctl.boot import assess, firmware
from hostctl.boot.entries import BootEntry, parse_entry
from hostctl.boot.last_words import Booted, Words
from hostctl.boot.slots import find_disk, find_slots, read_table, running_root_hash
from hostctl.config.host import HostDeclaration
from hostctl.errors import HostctlError
from hostctl.run import run
from hostctl.update import history
from hostctl.update.stage_port import reach
from hostctl.update.stages import AFTER, BEFORE, Stage

Verdict = Literal["healthy", "degraded", "bad"]
STEADY = 10.0  # seconds a release on trial must stay healthy: one that comes and goes is not


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEdge:
    """How the boot loader's count is read and a boot is given up."""

    tries: Callable[[], int]
    """Boots of this release that are counted and not decided yet, this one included; 0 if it is not on trial."""
    mark_bad: Callable[[], None]
    reboot: Callable[[], None]
    digests: Callable[[], Mapping[str, str]]
    """Root hash of each release in a slot, by version."""
    root_hash: str
    """Of the running release."""
    options: Callable[[Sequence[BootEntry]], object]
    """Bring the firmware's boot options up to date with the entries in the ESP."""
    unit_lines: Callable[[Sequence[str]], tuple[str, ...]] = aftermath.unit_lines
    """Last lines of the journal about units."""
    steady: float = STEADY
    keep_last_try: Callable[[], bool] = lambda: False
    """Bless the running release if it is on its last try, and tell whether it was: else the boot loader gives it up."""


def judge(report: health.Report, *, counted: bool) -> Verdict:
    """Decide what a boot is."""
    if report.healthy:
        return "healthy"
    return "bad" if counted else "degraded"


def tries() -> int:
    """Return how often the boot loader has started this release while it is undecided (systemd-bless-boot(8))."""
    entry = assess.counted_entry()
    if entry is None or run([assess.BLESS, "status"], timeout=60).text.strip() != "indeterminate":
        return 0
    return max(1, entry.done)


def real_edge(version: str) -> BootEdge:
    """Return the edge of this machine, which runs release ``version``."""
    root_hash = running_root_hash(Path("/proc/cmdline").read_text(encoding="ascii"))
    return BootEdge(
        tries=tries,
        mark_bad=lambda: assess.mark("bad"),
        reboot=_reboot,
        digests=lambda: find_slots(read_table(find_disk(root_hash)), root_hash).digests(),
        root_hash=root_hash,
        options=lambda entries: firmware.install(Path("/"), read_table(find_disk(root_hash)), entries, version),
        keep_last_try=_keep_last_try,
    )


def _keep_last_try() -> bool:
    entry = assess.counted_entry()
    if entry is None or entry.left:
        return False
    assess.mark("good")
    return True


def _reboot() -> None:
    run(["systemctl", "--no-block", "reboot"], timeout=60)


def _without_declaration(context: Context, edge: BootEdge) -> tuple[Verdict, health.Report]:
    """If nothing is declared, there is nothing that a release could break."""
    if unmet := withheld.problems(context.layout, None):
        return _spared(context, edge, unmet)
    _passed(context, edge, counted=edge.tries() > 0)
    return "healthy", health.Report(results=())


def _without_workloads(context: Context, edge: BootEdge, stored: Stored) -> tuple[Verdict, health.Report]:
    """Images could not be had yet."""
    layout = context.layout
    withheld.note(layout, withheld.NOT_YET)
    if pending.read(layout) is not None:
        pending.settle(layout)
    try:
        context.machine.units("start", [withheld.UNIT], block=False)
    except HostctlError as error:
        context.notify(f"the workloads are not tried again in this boot: {error}")
    return _spared(context, edge, withheld.problems(layout, stored))


def _spared(context: Context, edge: BootEdge, unmet: Sequence[str]) -> tuple[Verdict, health.Report]:
    """Let a boot pass as degraded in which no other release would do better: this one is not given up for it."""
    _passed(context, edge, counted=False)
    try:
        if edge.tries() and edge.keep_last_try():
            said = "on its last try, although the declaration was not in force whole"
            log = context.layout.state / "history.jsonl"
            history.note(log, context.notify, history.BLESSED, context.release, said, root_hash=edge.root_hash)
    except HostctlError as error:
        context.notify(f"the release cannot be kept from being given up: {error}")
    return "degraded", health.unmet(unmet)


def _came_up(context: Context, edge: BootEdge) -> None:
    """Take back the count of boots that the initrd keeps, and note what earlier boots left behind.

    User space is there, whatever the verdict on it. That nothing could be noted is no reason to give a release up.
    """
    try:
        (context.layout.state / "boots").unlink(missing_ok=True)
    except OSError as error:
        context.notify(f"the count of boots that did not come up cannot be taken back: {error}")
    try:
        left = aftermath.collect(context.layout)
        _note(context, edge, left)
        left.forget()
    except (HostctlError, OSError) as error:
        context.notify(f"what earlier boots left cannot be noted: {error}")


def _note(context: Context, edge: BootEdge, left: Aftermath) -> None:
    """Write to the history: which releases the boot loader gave up and why, crashes, and repairs of this boot."""
    log = context.layout.state / "history.jsonl"
    given_up = [entry for entry in _entries(context) if entry.bad and entry.version != context.release]
    explained: list[str] = []

    def explain(root_hash: str) -> Words:
        explained.append(root_hash)
        return left.explain(root_hash)

    if given_up:
        history.note_given_up(log, given_up, context.release, edge.digests(), explain)
    if left.dump is not None and not explained:
        running = Booted(version=context.release, root_hash=edge.root_hash)
        crashed = running if edge.tries() > 1 else left.former_boot() or running
        words = left.dump
        history.append(
            log, history.CRASHED, crashed.version, words.cause, root_hash=crashed.root_hash, lines=words.lines
        )
    for each in left.mended:
        history.append(log, history.REPAIRED, context.release, each.what, root_hash=edge.root_hash, lines=each.lines)


def _entries(context: Context) -> list[BootEntry]:
    folder = context.layout.esp / "EFI/Linux"
    entries = [parse_entry(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return [entry for entry in entries if entry is not None]


def _passed(context: Context, edge: BootEdge, *, counted: bool) -> None:
    """Stop the deadline of this boot (hostctl-deadline.service looks for the file) and note that it was on trial."""
    context.layout.runtime.mkdir(parents=True, exist_ok=True)
    (context.layout.runtime / "healthy").touch()
    if counted:
        log = context.layout.state / "history.jsonl"
        history.note(log, context.notify, history.BLESSED, context.release, root_hash=edge.root_hash)
    try:
        edge.options(_entries(context))
    except (HostctlError, OSError) as error:  # it has fewer ways to start than it could have, and starts
        context.notify(f"the firmware's boot options cannot be set: {error}")


def concerned(
    report: health.Report, declaration: HostDeclaration, keys: health.Keys = health.by_name
) -> tuple[str, ...]:
    """Return the units that failures are about; none when it is a check of an address.

    A workload in a network of its own cannot run without what makes those, which is first then: it may be the reason.
    """
    checked = {str(name): str(check.unit or "") for name, check in declaration.health.items()}
    private = {str(name) for name, workload in declaration.workloads.items() if workload.network == "private"}
    units: list[str] = []
    for result in report.failures:
        if result.kind == "workload":
            if result.name in private and NETWORK_UNIT not in units:
                units.insert(0, NETWORK_UNIT)
            units += [workload_unit(key) for key in keys(result.name)]
        elif unit := checked.get(result.name):
            units.append(unit)
    return tuple(units)


def check_boot(context: Context, edge: BootEdge) -> tuple[Verdict, health.Report]:
    """Wait for health and act on the verdict.

    A generation that a crash left untried is taken back first; one that was rendered during this boot is settled,
    unless the whole release is given up.

    Raises:
        BusyError: something is to be taken back, and somebody else does not let go of the machine.
    """
    layout = context.layout
    _came_up(context, edge)
    if transaction.unsettled(layout):  # else nobody is waited for: a pull may hold the lock for long
        with exclusive.lock(layout, wait=transaction.BOOT_PATIENCE, notify=context.notify):
            said = transaction.resolve(context)
        if said:
            context.notify(said)
    stored = generation.current(layout)
    if stored is None:
        return _without_declaration(context, edge)
    if stored.record.withheld:
        return _without_workloads(context, edge, stored)
    declaration = parsed.declaration(stored)
    counted = edge.tries() > 0
    if counted:
        reach(Stage.TRIAL, BEFORE)
    report = health.wait(
        declaration,
        context.machine,
        notify=context.notify,
        steady=edge.steady if counted else 0.0,
        keys=stored.record.keys,
    )
    if counted:
        reach(Stage.TRIAL, AFTER)
    # What came into force after the boot had to do without it says nothing of the release.
    verdict = judge(report, counted=counted and not withheld.of_this_boot(layout))
    if verdict == "bad":
        lines = edge.unit_lines(concerned(report, declaration, stored.record.keys))
        log, cause = layout.state / "history.jsonl", report.cause()
        history.note(log, context.notify, history.BAD, context.release, cause, root_hash=edge.root_hash, lines=lines)
        edge.mark_bad()
        edge.reboot()
        return verdict, report
    tried = pending.read(layout)
    if tried is not None and tried.booting:  # any other is a change that somebody has begun meanwhile, who judges it
        pending.settle(layout)
    _passed(context, edge, counted=counted and report.healthy)
    return verdict, report
