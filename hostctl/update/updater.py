"""Takes a release into the other slot, stage by stage. The commit point is one rename in the EFI system partition.

Before the rename the running release and its entry are untouched and stay the default; whatever the other slot held
stops being bootable before its first byte is overwritten. What there is to do is found on the disk, at every run: the
slots' labels, what the partitions hold, the entries. A run that was cut off goes on by being repeated, and ends in the
same state. Journal and history are written on the way, but nothing is decided by the journal, and a full disk stops
neither. Reboots and health are somebody else's; see ``boot/assess.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hostctl.boot.entries import BootEntry
from hostctl.boot.slots import EMPTY, Slot, Slots, Table, emptied, filled, find_slots, read_table
from hostctl.durable import sha256_file
from hostctl.errors import HostctlError
from hostctl.payload.index import Index
from hostctl.repository.client import RepositoryClient, Source, newest
from hostctl.repository.release import Release
from hostctl.run import run
from hostctl.update import content, esp, gpt, journal, record, slot
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
        PayloadError, StoredBytesError, RootMismatchError: what arrived is not the release; the other slot stays empty.
        RepositoryUnavailableError, RepositoryUntrustedError: see the client.
    """
    del by_hand
    with locked(host):
        steps = Steps(host, report)
        with steps.stage(Stage.METADATA):
            client = RepositoryClient(source)
            release = _choose(host, client, steps)
        if release is None or until == "check":
            return Outcome(running=host.version, available=release.version if release else None)
        table = read_table(host.disk)
        slots = find_slots(table, host.root_hash)
        if _staged(host, slots, release):
            return Outcome(running=host.version, available=release.version, staged=release.version)
        _require_good(host)
        try:
            _install(host, client, release, table, steps, commit=until == "stage")
        except BaseException as error:
            esp.tidy(host, release.title, keep=not isinstance(error, HostctlError))
            record.failed(host, release, journal.cause_of(error), steps)
            raise
        staged = release.version if until == "stage" else None
        return Outcome(running=host.version, available=release.version, staged=staged, written=True)


def _choose(host: UpdateHost, client: RepositoryClient, steps: Steps) -> Release | None:
    slots = find_slots(read_table(host.disk), host.root_hash)
    bad = record.refused(host, esp.read_entries(host), slots, steps)
    passed = set(bad.versions)
    while (version := newest(client.offers(), host.version, frozenset(passed))) is not None:
        release = client.release(version)
        if not bad.holds(version, release.root_hash):
            return release
        passed.add(version)
    return None


def _staged(host: UpdateHost, slots: Slots, release: Release) -> bool:
    """Tell whether an earlier run brought this very release to its end."""
    there = slots.other.release == release.title and slots.other.holds(release.root_hash)
    entries = [entry for entry in esp.read_entries(host) if entry.version == release.version and not entry.bad]
    return there and any(sha256_file(host.entries / entry.filename) == release.uki_sha256 for entry in entries)


def _require_good(host: UpdateHost) -> None:
    if not any(entry.good and entry.version == host.version for entry in esp.read_entries(host)):
        raise UpdateRefusedError(
            f"the running release {host.version} is not blessed yet, so the other slot is still needed",
            hint="wait for the health checks of this boot (`hostctl health`), then try again",
        )


def _install(
    host: UpdateHost, client: RepositoryClient, release: Release, table: Table, steps: Steps, *, commit: bool
) -> None:
    running = f"{host.name}_{host.version}"
    other = find_slots(table, host.root_hash).other
    slot.require_room(other, table.sector, release)
    going = esp.superfluous(host, frozenset({running}))
    esp.require_room(host, release.title, release.uki_bytes, going)
    with steps.stage(Stage.START):
        steps.start(release.version, release.root_hash, f"update from {host.version}")
        esp.remove(tuple(path for path in going if path != esp.temporary(host, release.title)))
        table = _invalidate(host, table, other)
    other = find_slots(table, host.root_hash).other
    index = content.read_index(client, release)
    _fill(client, release, index, other, table.sector, steps)
    with steps.stage(Stage.LABEL):
        wanted = filled(table, other, release.title, release.root_hash)
        gpt.write_table(host.disk, wanted, lambda: steps.reach(Stage.LABEL, MIDDLE))
    with steps.stage(Stage.KERNEL):
        content.write_kernel(client, release, index, esp.temporary(host, release.title), steps)
    if commit:
        _commit(host, release, steps)
        with steps.stage(Stage.CLEAN):
            esp.remove(esp.superfluous(host, frozenset({running, release.title})))
        record.staged(host, release, steps)
    steps.finish("staged" if commit else "downloaded")


def _invalidate(host: UpdateHost, table: Table, other: Slot) -> Table:
    """Make the other slot one that nothing boots, and return the table."""
    if {part.label for part in (other.root, other.verity, other.signature)} == {EMPTY}:
        return table
    after = emptied(table, other)
    gpt.write_table(host.disk, after)
    return after


def _fill(client: RepositoryClient, release: Release, index: Index, other: Slot, sector: int, steps: Steps) -> None:
    signature = client.small(release.signature)
    with steps.stage(Stage.ROOT):
        content.write_root(client, release, index, other.root.node, steps)
    with steps.stage(Stage.FLUSH):
        slot.flush(other.root.node)
    with steps.stage(Stage.TREE):
        slot.make_tree(other, release, lambda: steps.reach(Stage.TREE, MIDDLE))
    with steps.stage(Stage.SIGNATURE):
        slot.write_padded(signature, other.signature.node, other.signature.size * sector)
    with steps.stage(Stage.VERIFY):
        slot.verify(other, release, signature)


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
        despite_inhibitors: also while somebody blocks it at systemd-logind.

    Raises:
        CommandError: systemd refused.
    """
    steps = Steps(host, report)
    with steps.stage(Stage.REBOOT):
        force = ["--check-inhibitors=no"] if despite_inhibitors else []
        run(["systemctl", "--no-block", *force, "reboot"])
