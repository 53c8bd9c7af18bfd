"""Boot entries on the EFI system partition, changed so that a power cut leaves the old state or the new one.

FAT has no journal. What holds: one sector is written or not, and what was flushed stays. A file's name may lie across
two sectors, its size and its first cluster never do. Hence three rules:

- An entry comes into being by a rename *over an empty file of its name*, which was flushed before: the names are on
  the disk already, and the rename writes nothing but size and first cluster. Empty files are no entries, for the boot
  loader neither.
- After a rename the file is flushed as well as the folder, because FAT keeps a file's size in its folder.
- An entry that the boot loader could choose is first renamed to one without tries, then made empty, then removed: a
  removal that is cut off may leave a part of its name, but never one that boots.

Checking the file system after a cut is the boot's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hostctl.boot.entries import BootEntry, parse_entries, parse_entry
from hostctl.durable import sync_directory
from hostctl.errors import HostctlError
from hostctl.update.host import UpdateHost

ROOT_HINT = "updates and rollbacks are for root, on a host whose ESP is mounted"
MARGIN = 1 << 20
"""Bytes to leave free: what folders take, and what the boot loader writes."""


class StateError(HostctlError):
    """The EFI system partition cannot be read or written."""

    id = "update-state"


class EspFullError(HostctlError):
    """There is no room for another kernel image."""

    id = "esp-full"


def read_entries(host: UpdateHost) -> tuple[BootEntry, ...]:
    """Return the boot entries of the host's image; empty files are none.

    Raises:
        StateError: the ESP is not there.
    """
    try:
        names = [path.name for path in host.entries.iterdir() if path.stat().st_size]
    except OSError as error:
        raise StateError("the EFI system partition cannot be read", details=str(error), hint=ROOT_HINT) from error
    return parse_entries(names, host.name)


def temporary(host: UpdateHost, release: str) -> Path:
    """Return where the kernel image of ``release`` (``NAME_VERSION``) is written before it is an entry."""
    return host.entries / f".{release}.tmp"


def superfluous(host: UpdateHost, keep: frozenset[str]) -> tuple[Path, ...]:
    """Return the files that belong to no release of ``keep``: entries, temporary files, and remains of names.

    Args:
        host: the machine.
        keep: ``NAME_VERSION`` of each release that stays.

    Raises:
        StateError: the ESP is not there.
    """
    found = []
    try:
        for path in sorted(host.entries.iterdir()):
            entry = parse_entry(path.name)
            if path.name.startswith(f".{host.name}_") and path.name.endswith(".tmp"):
                stays = path.name in {f".{release}.tmp" for release in keep}
            elif entry is None:
                # A name that a cut took apart shows as its short form, as in EDGE_2~1.EFI.
                stays = not ("~" in path.name and path.name.lower().endswith(".efi"))
            else:
                stays = entry.name != host.name or (entry.release in keep and path.stat().st_size > 0)
            if not stays:
                found.append(path)
    except OSError as error:
        raise StateError("the EFI system partition cannot be read", details=str(error), hint=ROOT_HINT) from error
    return tuple(found)


def require_room(host: UpdateHost, release: str, wanted: int, going: tuple[Path, ...]) -> None:
    """Check that the kernel image fits and the partition can be written, before anything is given up for it.

    Args:
        host: the machine.
        release: ``NAME_VERSION``.
        wanted: bytes of its kernel image.
        going: files that will be removed before it is written.

    Raises:
        EspFullError: it does not fit.
        StateError: the partition cannot be written.
    """
    probe = temporary(host, release)
    try:
        system = os.statvfs(host.entries)
        free = system.f_bavail * system.f_frsize
        freed = sum(_allocated(path, system.f_frsize) for path in {*going, probe})
        if free + freed < wanted + MARGIN:
            raise EspFullError(
                f"the kernel image of {release} has {wanted} bytes, the EFI system partition {free + freed} to spare",
                details="\n".join(f"{path.name}: {path.stat().st_size}" for path in sorted(host.entries.iterdir())),
                hint="remove files that are not the host's own from the EFI system partition",
            )
        if not probe.exists():
            with probe.open("wb") as file:
                os.fsync(file.fileno())
            sync_directory(host.entries)
    except OSError as error:
        raise StateError("the EFI system partition cannot be written", details=str(error), hint=ROOT_HINT) from error


def _allocated(path: Path, cluster: int) -> int:
    try:
        return -(-path.stat().st_size // cluster) * cluster
    except FileNotFoundError:
        return 0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path, between: Callable[[], None] = lambda: None) -> None:
    """Give a file the name ``target`` in one step that a power cut cannot tear, flushed.

    Args:
        source: the file, whose content is flushed already.
        target: in the same folder; a file of this name is lost.
        between: called after the rename and before it is flushed.

    Raises:
        OSError: it failed; if before the rename, nothing has changed.
    """
    made = not target.exists()
    try:
        if made:
            target.open("xb").close()
        _flush(target)
        sync_directory(target.parent)
        descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC)
        try:
            source.replace(target)
            made = False
            between()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(target.parent)
    except BaseException:
        if made:
            with suppress(OSError):
                target.unlink()
        raise


def remove(paths: tuple[Path, ...]) -> None:
    """Remove files so that none of them can be started, however far it comes.

    Raises:
        StateError: it failed.
    """
    try:
        for path in paths:
            entry = parse_entry(path.name)
            last = path
            if entry is not None and not entry.bad and path.stat().st_size:
                last = path.with_name(entry.given_up().filename)
                rename(path, last)
            _empty(last)
            last.unlink()
            sync_directory(path.parent)
    except OSError as error:
        raise StateError("a file of the EFI system partition cannot be removed", details=str(error)) from error


def _empty(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(host: UpdateHost, release: str, *, keep: bool) -> None:
    """Remove the temporary file of a release whose update ended early, unless there is something in it to go on from.

    Args:
        host: the machine.
        release: ``NAME_VERSION``.
        keep: leave it if it is not empty.
    """
    path = temporary(host, release)
    with suppress(OSError):  # the next update removes it
        if not keep or not path.stat().st_size:
            path.unlink()
            sync_directory(path.parent)


def give_up(host: UpdateHost, entry: BootEntry) -> None:
    """Take an entry's tries away, so that the boot loader prefers every other.

    Raises:
        StateError: it failed.
    """
    if entry.bad:
        return
    try:
        rename(host.entries / entry.filename, host.entries / entry.given_up().filename)
    except OSError as error:
        raise StateError(f"the boot entry {entry.filename} cannot be renamed", details=str(error)) from error
