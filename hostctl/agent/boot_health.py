"""The boot's health check: blesses nothing itself, but decides what a boot that is not healthy leads to.

While a boot is being tried (the boot loader counts it), a release under which the machine is not healthy is marked bad
and the machine reboots into the other one. A release that was blessed before is never left for a failing check: the
host stays up and says that it is degraded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl.agent import apply as transaction
from hostctl.agent import generation, health
from hostctl.agent.apply import Context
from hostctl.boot import assess
from hostctl.boot.entries import parse_entry
from hostctl.boot.slots import find_slots, read_table, running_root_hash
from hostctl.config.load import parse_host
from hostctl.run import run
from hostctl.update import history
from hostctl.update.machine import find_disk

Verdict = Literal["healthy", "degraded", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEdge:
    """How the boot loader's count is read and a boot is given up."""

    counted: Callable[[], bool]
    mark_bad: Callable[[], None]
    reboot: Callable[[], None]
    digests: Callable[[], Mapping[str, str]]
    """Root hash of each release in a slot, by version."""
    root_hash: str
    """Of the running release."""


def judge(report: health.Report, *, counted: bool) -> Verdict:
    """Decide what a boot is."""
    if report.healthy:
        return "healthy"
    return "bad" if counted else "degraded"


def is_counted() -> bool:
    """Tell whether the boot loader counts this boot and it is not decided yet (systemd-bless-boot(8))."""
    if assess.counted_entry() is None:
        return False
    return run([assess.BLESS, "status"], timeout=60).text.strip() == "indeterminate"


def real_edge() -> BootEdge:
    """Return the edge of this machine."""
    root_hash = running_root_hash(Path("/proc/cmdline").read_text(encoding="ascii"))
    return BootEdge(
        counted=is_counted,
        mark_bad=lambda: assess.mark("bad"),
        reboot=_reboot,
        digests=lambda: find_slots(read_table(find_disk(root_hash)), root_hash).digests(),
        root_hash=root_hash,
    )


def _reboot() -> None:
    run(["systemctl", "--no-block", "reboot"], timeout=60)


def _without_declaration(context: Context, edge: BootEdge) -> tuple[Verdict, health.Report]:
    """Nothing is declared, so there is nothing that a release could break."""
    _passed(context, edge, counted=edge.counted())
    return "healthy", health.Report(results=())


def _came_up(context: Context, edge: BootEdge) -> None:
    """Take back the count of boots that the initrd keeps, and note which releases the boot loader gave up.

    User space is there, whatever the verdict on it. A release that never came so far leaves no other trace than
    its entry without tries.
    """
    layout = context.layout
    (layout.state / "boots").unlink(missing_ok=True)
    folder = layout.esp / "EFI/Linux"
    entries = [parse_entry(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    given_up = [entry for entry in entries if entry is not None and entry.bad and entry.version != context.release]
    if given_up:
        history.note_given_up(layout.state / "history.jsonl", given_up, context.release, edge.digests())


def _passed(context: Context, edge: BootEdge, *, counted: bool) -> None:
    """Stop the deadline of this boot (hostctl-deadline.service looks for the file) and note that it was on trial."""
    context.layout.runtime.mkdir(parents=True, exist_ok=True)
    (context.layout.runtime / "healthy").touch()
    if counted:
        log = context.layout.state / "history.jsonl"
        history.append(log, history.BLESSED, context.release, root_hash=edge.root_hash)


def check_boot(context: Context, edge: BootEdge) -> tuple[Verdict, health.Report]:
    """Wait for health and act on the verdict.

    A generation that a crash left untried is taken back first; one that was rendered during this boot is settled,
    unless the whole release is given up.
    """
    layout = context.layout
    _came_up(context, edge)
    with transaction.lock(layout):
        said = transaction.resolve(context)
    if said:
        context.notify(said)
    stored = generation.current(layout)
    if stored is None:
        return _without_declaration(context, edge)
    declaration = parse_host(stored.declaration, f"generation {stored.record.number}")
    report = health.wait(declaration, context.machine, notify=context.notify)
    verdict = judge(report, counted=(counted := edge.counted()))
    if verdict == "bad":
        log, cause = layout.state / "history.jsonl", report.cause()
        history.append(log, history.BAD, context.release, cause, root_hash=edge.root_hash)
        edge.mark_bad()
        edge.reboot()
        return verdict, report
    if transaction.read_pending(layout) is not None:
        transaction.settle(layout)
    _passed(context, edge, counted=counted)
    return verdict, report
