"""Takes a release into the other slot, stage by stage. The commit point is one rename in the EFI system partition.

Before the rename the running release and its entry are untouched and stay the default; whatever the other slot held
stops being bootable before its first byte is overwritten. What there is to do is found on the disk, at every run: the
slots' labels, what the partitions hold, the entries. A run that was cut off goes on by being repeated, and ends in the
same state. Journal and history are written on the way, but nothing is decided by the journal, and a full disk stops
neither. Reboots and health are somebody else's; see ``boot/assess.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hostctl.boot.entries import BootEntry
from hostctl.boot.slots import EMPTY, Slot, Slots, Table, emptied, filled, find_slots, read_table
from hostctl.durable import sha256_file
from hostctl.errors import HostctlError
from hostctl.repository.client import RepositoryClient, Source
from hostctl.repository.errors import RepositoryUnavailableError
from hostctl.repository.release import Release
from hostctl.run import run
from hostctl.update import esp, gpt, journal, record, slot
from hostctl.update.choose import Asker, Choice, Passed, choose
from hostctl.update.content import Maker, Running
from hostctl.update.host import UpdateHost
from hostctl.update.lock import locked
from hostctl.update.stages import MIDDLE, Stage
from hostctl.update.steps import Report, Steps, silent

Until = Literal["check", "download", "stage"]


class UpdateRefusedError(HostctlError):
    """The host is in a state in which an update could leave it without a release to go back to."""

    id = "update-refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an update did."""

    running: str
    available: str | None = None
    """Version that this host would take, or has taken; none if there is nothing newer for it."""
    staged: str | None = None
    """Version that the next boot tries; none if there is none."""
    written: bool = False
    """False if nothing had to be written."""
    path: str | None = None
    """``delta`` or ``full``: how what was written was made in the end."""
    fetched: int = 0
    """Bytes of payloads that came over the network."""
    passed: tuple[Passed, ...] = ()
    """Newer releases that this host does not take, and why."""


def update(
    host: UpdateHost, source: Source, until: Until = "stage", report: Report = silent, *, by_hand: bool = True
) -> Outcome:
    """Bring the newest release into the other slot and make it the next boot's first choice.

    Args:
        host: the machine.
        source: where releases come from.
        until: how far to go: ``check`` only looks; ``download`` fills and proves the slot and does not commit.
        report: is told the stages, their progress and warnings.
        by_hand: whether somebody asked for it; rollouts are for machines that update by themselves.

    Raises:
        UpdateBusyError: another one is at work.
        UpdateRefusedError: the running release is not blessed, so the other slot is still needed.
        SlotTooSmallError, EspFullError: the release does not fit; nothing was changed.
        LockError, StateError, PartitionError, TableError: the ESP or the disk cannot be used.
        PayloadError, PayloadIndexError, StoredBytesError, SegmentResultError, RootMismatchError: what arrived is not
            the release; the other slot stays empty.
        TargetError: the disk or the ESP did not take what was written.
        RepositoryUnavailableError, RepositoryUntrustedError: see the client.
    """
    with locked(host):
        steps = Steps(host, report)
        with steps.stage(Stage.METADATA):
            client = _look(source, steps)
            table = read_table(host.disk)
            slots = find_slots(table, host.root_hash)
            choice = _choose(host, client, slots, steps, by_hand=by_hand)
        release = choice.release
        outcome = Outcome(running=host.version, passed=choice.passed)
        if release is None:
            return outcome
        outcome = replace(outcome, available=release.version)
        if until == "check":
            return outcome
        if _staged(host, slots, release):
            return replace(outcome, staged=release.version)
        if until == "download" and _downloaded(host, slots, release):
            return outcome
        running = _require_good(host)
        steps.about(release.version, release.root_hash)
        try:
            maker = _install(host, client, release, running, table, steps, commit=until == "stage")
        except BaseException as error:
            esp.tidy(host, release.title, keep=_worth_keeping(error))
            record.failed(host, release, journal.cause_of(error), steps)
            raise
        staged = release.version if until == "stage" else None
        return replace(outcome, staged=staged, written=True, path=maker.way.name, fetched=maker.fetched)


def _look(source: Source, steps: Steps) -> RepositoryClient:
    client = RepositoryClient(source)
    if client.unkept:
        steps.warn(f"what the repository says cannot be kept: {client.unkept}")
    return client


def _worth_keeping(error: BaseException) -> bool:
    """Tell whether what there is of the kernel image is good to go on from."""
    return isinstance(error, RepositoryUnavailableError) or not isinstance(error, HostctlError)


def _choose(host: UpdateHost, client: RepositoryClient, slots: Slots, steps: Steps, *, by_hand: bool) -> Choice:
    refused = record.refused(host, esp.read_entries(host), slots, steps)
    asker = Asker(version=host.version, root_hash=host.root_hash, machine_id=host.machine_id, by_hand=by_hand)
    return choose(client.offers(), asker, refused, client.now, client.release)


def _staged(host: UpdateHost, slots: Slots, release: Release) -> bool:
    """Tell whether an earlier run brought this very release to its end."""
    there = slots.other.release == release.title and slots.other.holds(release.root_hash)
    entries = [entry for entry in esp.read_entries(host) if entry.version == release.version and not entry.bad]
    return there and any(sha256_file(host.entries / entry.filename) == release.uki_sha256 for entry in entries)


def _downloaded(host: UpdateHost, slots: Slots, release: Release) -> bool:
    """Tell whether an earlier run filled the slot and left the kernel image beside the entries."""
    path = esp.temporary(host, release.title)
    there = slots.other.release == release.title and slots.other.holds(release.root_hash)
    return there and path.exists() and sha256_file(path) == release.uki_sha256


def _require_good(host: UpdateHost) -> BootEntry:
    """Return the entry of the running release, which must be blessed."""
    for entry in esp.read_entries(host):
        if entry.good and entry.version == host.version:
            return entry
    raise UpdateRefusedError(
        f"the running release {host.version} is not blessed yet, so the other slot is still needed",
        hint="wait for the health checks of this boot (`hostctl health`), then try again",
    )


def _install(
    host: UpdateHost,
    client: RepositoryClient,
    release: Release,
    running: BootEntry,
    table: Table,
    steps: Steps,
    *,
    commit: bool,
) -> Maker:
    slots = find_slots(table, host.root_hash)
    other = slots.other
    with steps.stage(Stage.START):
        uki = host.entries / running.filename
        maker = Maker(client, release, Running(root_hash=host.root_hash, root=slots.running.root.node, uki=uki), steps)
        signature = client.small(release.signature)
        slot.require_room(other, table.sector, release)
        going = esp.superfluous(host, frozenset({running.release}))
        esp.require_room(host, release.title, release.uki_bytes, going)
        ready = _proven(other, release)
        steps.start(f"update from {host.version}, {maker.why}")
        esp.remove(tuple(path for path in going if path != esp.temporary(host, release.title)))
        if not ready:
            table = _invalidate(host, table, other)
            other = find_slots(table, host.root_hash).other
    if not ready:
        _fill(maker, other, steps)
    with steps.stage(Stage.SIGNATURE):
        slot.write_padded(signature, other.signature.node, other.signature.size * table.sector)
    with steps.stage(Stage.VERIFY):
        slot.verify(other, release, signature)
    with steps.stage(Stage.LABEL):
        wanted = filled(table, other, release.title, release.root_hash)
        gpt.write_table(host.disk, wanted, lambda: steps.reach(Stage.LABEL, MIDDLE))
    _make_kernel(maker, other, esp.temporary(host, release.title), steps)
    if commit:
        _commit(host, release, steps)
        with steps.stage(Stage.CLEAN):
            esp.remove(esp.superfluous(host, frozenset({running.release, release.title})))
        record.staged(host, release, steps)
    steps.finish(f"{'staged' if commit else 'downloaded'}, {maker.way.name}, {maker.fetched} bytes fetched")
    return maker


def _proven(other: Slot, release: Release) -> bool:
    """Tell whether the slot holds the release already, from a run that was cut off later or asked only to download."""
    labelled = other.release == release.title and other.holds(release.root_hash)
    if not labelled:
        return False
    for part in (other.root, other.verity):
        slot.flush(part.node)
    return not slot.verifies(other, release.root_hash)


def _invalidate(host: UpdateHost, table: Table, other: Slot) -> Table:
    """Make the other slot one that nothing boots, and return the table."""
    if {part.label for part in (other.root, other.verity, other.signature)} == {EMPTY}:
        return table
    after = emptied(table, other)
    gpt.write_table(host.disk, after)
    return after


def _fill(maker: Maker, other: Slot, steps: Steps) -> None:
    """Make the root and its tree, in the other way if the first is not good enough."""
    while True:
        try:
            with steps.stage(Stage.ROOT):
                maker.make_root(other.root.node)
            with steps.stage(Stage.FLUSH):
                slot.flush(other.root.node)
            with steps.stage(Stage.TREE):
                slot.make_tree(other, maker.release, lambda: steps.reach(Stage.TREE, MIDDLE))
        except HostctlError as error:
            maker.otherwise(error)
        else:
            return


def _make_kernel(maker: Maker, other: Slot, path: Path, steps: Steps) -> None:
    while True:
        try:
            with steps.stage(Stage.KERNEL):
                maker.make_kernel(other.root.node, path)
        except HostctlError as error:
            maker.otherwise(error)
        else:
            return


def _commit(host: UpdateHost, release: Release, steps: Steps) -> None:
    entry = BootEntry(name=release.name, version=release.version, left=release.tries)
    with steps.stage(Stage.COMMIT):
        source, target = esp.temporary(host, release.title), host.entries / entry.filename
        try:
            esp.rename(source, target, lambda: steps.reach(Stage.COMMIT, MIDDLE))
        except OSError as error:
            raise esp.StateError(
                f"the kernel image of release {release.version} cannot be made a boot entry", details=str(error)
            ) from error


def reboot(host: UpdateHost, report: Report = silent, *, despite_inhibitors: bool = False) -> None:
    """Ask for the reboot into what is staged.

    Args:
        host: the machine.
        report: is told.
        despite_inhibitors: also while somebody blocks it at systemd-logind, which lets nobody past without polkit. So
            process 1 is asked, as logind itself does.

    Raises:
        CommandError: systemd refused.
    """
    steps = Steps(host, report)
    with steps.stage(Stage.REBOOT):
        words = ["--job-mode=replace-irreversibly", "start", "reboot.target"] if despite_inhibitors else ["reboot"]
        run(["systemctl", "--no-block", *words])
