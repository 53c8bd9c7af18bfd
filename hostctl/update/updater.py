"""Takes a release into the other slot. The commit point is one rename in the EFI system partition.

Stages: check, invalidate, download, verify, label, stage. Before the rename the running release and its entry are
untouched and stay the default; whatever the other slot held stops being bootable before its first byte is overwritten.
Nothing is remembered between runs: a run that was cut off is repeated from the start and ends in the same state.
Reboots and health are somebody else's; see ``boot/assess.py``.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostctl.boot.entries import BootEntry, parse_entries
from hostctl.boot.slots import Slot, Slots, Table, emptied, filled, find_slots, read_table, write_table
from hostctl.durable import sha256_file, sync_directory
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.repository.client import RepositoryClient, Source, newest
from hostctl.repository.whole import BLOCK, Release
from hostctl.run import run
from hostctl.update import history
from hostctl.update.stream import copy, unpack, write_padded

Progress = Callable[[str, int, int], None]
"""Called with the stage, bytes done and bytes in all (0 if the stage does not count)."""

VERITY_SECONDS = 1800.0
_ROOT_HINT = "updates and rollbacks are for root, on a host whose ESP is mounted"
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


class UpdateBusyError(HostctlError):
    """Another update or rollback is at work."""

    id = "update-busy"
    exit_code = EXIT_BUSY


class StateError(HostctlError):
    """The ESP or the state folder cannot be used."""

    id = "update-state"


class UpdateRefusedError(HostctlError):
    """The host is in a state in which an update could leave it without a release to go back to."""

    id = "update-refused"


class SlotTooSmallError(HostctlError):
    """The release does not fit this host's partitions."""

    id = "slot-too-small"


class RootMismatchError(HostctlError):
    """What was written to the slot does not have the release's root hash."""

    id = "root-mismatch"


class RollbackError(HostctlError):
    """There is no release to go back to."""

    id = "rollback"


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateHost:
    """The machine that is updated: which release runs, and where things lie."""

    name: str
    version: str
    root_hash: str
    """Of the running root."""
    disk: Path
    """The disk with both slots, or an image with partition files beside it."""
    entries: Path
    """Folder of the unified kernel images, ``EFI/Linux`` of the ESP."""
    state: Path
    """hostctl's state folder."""

    @property
    def history(self) -> Path:
        """The history file."""
        return self.state / "history.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an update did."""

    running: str
    staged: str | None
    """Version that the next boot tries; none if there is nothing newer."""
    written: bool
    """False if nothing had to be written."""


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def read_entries(host: UpdateHost) -> tuple[BootEntry, ...]:
    """Return the boot entries of the host's image.

    Raises:
        StateError: the ESP is not there.
    """
    try:
        return parse_entries((path.name for path in host.entries.iterdir()), host.name)
    except OSError as error:
        raise StateError("the EFI system partition cannot be read", details=str(error), hint=_ROOT_HINT) from error


@contextmanager
def locked(host: UpdateHost) -> Iterator[None]:
    """Hold the one lock of everything that writes slots or boot entries.

    Raises:
        UpdateBusyError: somebody else holds it.
        StateError: the state folder cannot be written.
    """
    try:
        host.state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(host.state / "update.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{host.state} cannot be written", details=str(error), hint=_ROOT_HINT) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpdateBusyError("another update or rollback is at work", hint="try again when it is done") from error
        yield
    finally:
        os.close(descriptor)


def check(host: UpdateHost, client: RepositoryClient) -> Release | None:
    """Return the newest release of the channel that this host would take; none if there is none.

    Raises:
        DescriptionError: the repository describes it wrongly.
        RepositoryUnavailableError, RepositoryUntrustedError: see the client.
    """
    slots = find_slots(read_table(host.disk), host.root_hash)
    bad = history.note_given_up(host.history, read_entries(host), host.version, slots.digests())
    passed = set(bad.versions)
    while (version := newest(client.versions(), host.version, frozenset(passed))) is not None:
        release = client.release(version)
        if not bad.holds(version, release.root_hash):
            return release
        passed.add(version)
    return None


def update(host: UpdateHost, source: Source, progress: Progress = _silent) -> Outcome:
    """Bring the newest release into the other slot and make it the next boot's first choice.

    Raises:
        UpdateBusyError: another one is at work.
        UpdateRefusedError: the running release is not blessed, so the other slot is still needed.
        SlotTooSmallError: the release does not fit.
        StateError: the ESP or the state folder cannot be used.
        PayloadError, StreamError, RootMismatchError: what arrived is not the release; the other slot stays empty.
        RepositoryUnavailableError, RepositoryUntrustedError: see the client.
    """
    with locked(host):
        progress("check", 0, 0)
        client = RepositoryClient(source)
        release = check(host, client)
        if release is None:
            return Outcome(running=host.version, staged=None, written=False)
        table = read_table(host.disk)
        slots = find_slots(table, host.root_hash)
        if _staged(host, slots, release):
            return Outcome(running=host.version, staged=release.version, written=False)
        _require_good(host)
        _require_room(table, slots.other, release)
        progress("invalidate", 0, 0)
        table = _invalidate(host, table, slots.other)
        try:
            _install(host, client, release, table, progress)
        except HostctlError as error:
            history.append(host.history, history.FAILED, release.version, error.brief, root_hash=release.root_hash)
            raise
        return Outcome(running=host.version, staged=release.version, written=True)


def _staged(host: UpdateHost, slots: Slots, release: Release) -> bool:
    """Tell whether an earlier run brought this very release to its end."""
    there = slots.other.release == release.title and slots.other.holds(release.root_hash)
    entries = [entry for entry in read_entries(host) if entry.version == release.version and not entry.bad]
    return there and any(sha256_file(host.entries / entry.filename) == release.uki.sha256 for entry in entries)


def _require_good(host: UpdateHost) -> None:
    if not any(entry.good and entry.version == host.version for entry in read_entries(host)):
        raise UpdateRefusedError(
            f"the running release {host.version} is not blessed yet, so the other slot is still needed",
            hint="wait for the health checks of this boot (`hostctl health`), then try again",
        )


def _tree_bytes(root_bytes: int) -> int:
    """Return the size of a hash tree: a superblock, then levels of 128 SHA-256 sums a block (veritysetup, format 1)."""
    blocks, level = 1, root_bytes // BLOCK
    while level > 1:
        level = -(-level // 128)
        blocks += level
    return max(blocks, 2) * BLOCK


def _require_room(table: Table, slot: Slot, release: Release) -> None:
    needs = (
        (slot.root, release.root_bytes),
        (slot.verity, _tree_bytes(release.root_bytes)),
        (slot.signature, release.signature.bytes),
    )
    for part, wanted in needs:
        if wanted > part.size * table.sector:
            raise SlotTooSmallError(
                f"release {release.version} needs {wanted} bytes in {part.node}, which has {part.size * table.sector}",
                hint="partitions cannot grow by an update; reinstall the host with a larger limits.root",
            )


def _invalidate(host: UpdateHost, table: Table, slot: Slot) -> Table:
    """Make the other slot unbootable, entry first, and return the new table."""
    for entry in read_entries(host):
        if entry.version != host.version:
            (host.entries / entry.filename).unlink()
    for path in host.entries.glob(f".{host.name}_*.tmp"):
        path.unlink()
    sync_directory(host.entries)
    after = emptied(table, slot)
    write_table(host.disk, after)
    return after


def _install(host: UpdateHost, client: RepositoryClient, release: Release, table: Table, progress: Progress) -> None:
    slot = find_slots(table, host.root_hash).other
    total = release.root.bytes
    unpack(
        client.open(release.root), slot.root.node, release.root_bytes, lambda done: progress("download", done, total)
    )
    progress("verify", 0, 0)
    _verify(slot, release)
    signature = b"".join(client.open(release.signature))
    write_padded(signature, slot.signature.node, slot.signature.size * table.sector)
    progress("label", 0, 0)
    write_table(host.disk, filled(table, slot, release.title, release.root_hash))
    _stage(host, client, release, progress)
    cause = f"update from {host.version}"
    history.append(host.history, history.STAGED, release.version, cause, root_hash=release.root_hash)


def _verify(slot: Slot, release: Release) -> None:
    """Compute the hash tree from what the disk holds; its root must be the release's."""
    words = ["veritysetup", "format", "--hash=sha256", f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}"]
    words += [f"--data-blocks={release.root_bytes // BLOCK}", f"--salt={release.salt}", f"--uuid={release.uuid}"]
    printed = run([*words, slot.root.node, slot.verity.node], timeout=VERITY_SECONDS).text
    found = _ROOT_HASH.search(printed)
    if found is None or found[1] != release.root_hash:
        raise RootMismatchError(
            f"the root of release {release.version} on the disk is not the one that was signed", details=printed
        )
    descriptor = os.open(slot.verity.node, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stage(host: UpdateHost, client: RepositoryClient, release: Release, progress: Progress) -> None:
    entry = BootEntry(name=release.name, version=release.version, left=release.tries)
    temporary = host.entries / f".{release.title}.tmp"
    total = release.uki.bytes
    try:
        copy(client.open(release.uki), temporary, lambda done: progress("stage", done, total))
        if sha256_file(temporary) != release.uki.sha256:
            raise RootMismatchError(f"the kernel image of release {release.version} reads back wrong from the ESP")
        temporary.replace(host.entries / entry.filename)
    except OSError as error:
        raise StateError(
            f"cannot write the kernel image of release {release.version} to the ESP", details=str(error)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(host.entries)


def rollback(host: UpdateHost, cause: str = "asked for") -> str:
    """Make the release in the other slot the next boot's choice and return its version. The caller reboots.

    Raises:
        UpdateBusyError: an update is at work.
        RollbackError: the other slot holds nothing that could start.
    """
    with locked(host):
        slot = find_slots(read_table(host.disk), host.root_hash).other
        entries = read_entries(host)
        other = next((entry for entry in entries if entry.release == slot.release and not entry.bad), None)
        running = [entry for entry in entries if entry.version == host.version]
        if other is None or not running:
            raise RollbackError(
                "there is no release to go back to",
                details=f"other slot: {slot.release or 'empty'}",
                hint="`hostctl history` tells what became of it",
            )
        tree = run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash], check=False)
        if tree.status:
            raise RollbackError(
                f"the root of {slot.release} does not verify", details=tree.stderr.decode("utf-8", "replace")
            )
        cause = f"to {other.version}: {cause}"
        history.append(host.history, history.ROLLED_BACK, host.version, cause, root_hash=host.root_hash)
        for entry in running:
            (host.entries / entry.filename).replace(host.entries / entry.given_up().filename)
        sync_directory(host.entries)
        return other.version
