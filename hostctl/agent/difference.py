"""What a workload has changed in its root file system: the overlay's upper layer against those below it. Reads only.

Format: Documentation/filesystems/overlayfs.rst of Linux. The workload may write meanwhile, so everything is looked at
by descriptors, and no symbolic link is followed.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl.agent import overview
from hostctl.agent.machine import Machine, workload_unit
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.workload.beneath import AS_ARCHIVE, MAX_DEPTH, open_in
from hostctl.workload.upper import OPAQUE

MAX_CHANGES = 100_000  # what one answer over the bus can hold
Kind = Literal["A", "C", "D"]


class TooManyChangesError(HostctlError):
    """The workload has changed more than can be told."""

    id = "too-many-changes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One path that was added, changed or deleted, in Docker's letters."""

    kind: Kind
    path: str


def walk(
    folder: int, *, depth: int = 0, seen: Iterator[int] | None = None
) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield name below ``folder``, status and an open parent of every entry; folders before what is in them.

    No link is followed. The parent is open only until the next step.

    Args:
        folder: an open folder.
        depth: how many folders it lies in.
        seen: counts names, of all folders.

    Raises:
        TooManyChangesError: there are more than :data:`MAX_CHANGES`; they are not kept in memory before that.
    """
    seen = itertools.count(1) if seen is None else seen
    for name in _listed(folder, seen):
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield name, found, folder
        if stat.S_ISDIR(found.st_mode) and depth < MAX_DEPTH:
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                continue
            try:
                for inner, status, parent in walk(below, depth=depth + 1, seen=seen):
                    yield f"{name}/{inner}", status, parent
            finally:
                os.close(below)


def _listed(folder: int, seen: Iterator[int]) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if next(seen) > MAX_CHANGES:
                raise TooManyChangesError(f"more than {MAX_CHANGES} paths are changed")
            names.append(entry.name)
    return sorted(names)


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _exists(lowers: Sequence[int], path: str) -> bool:
    for lower in lowers:
        try:
            descriptor = open_in(lower, path, os.O_PATH | os.O_NOFOLLOW, AS_ARCHIVE)
        except OSError:
            continue
        whiteout = _is_whiteout(os.fstat(descriptor))
        os.close(descriptor)
        return not whiteout
    return False


def _names(folders: Sequence[int], path: str) -> set[str]:
    names: set[str] = set()
    for folder in folders:
        try:
            descriptor = open_in(folder, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, AS_ARCHIVE)
        except OSError:
            continue
        names.update(os.listdir(descriptor))  # noqa: PTH208 - by descriptor
        os.close(descriptor)
    return names


def _is_opaque(parent: int, name: str) -> bool:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return False
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(descriptor)


def changes(upper: int, lowers: Sequence[int]) -> Iterator[Change]:
    """Return what the upper layer changes.

    Args:
        upper: its open folder.
        lowers: the open folders of the layers below, highest first.
    """
    for path, found, parent in walk(upper):
        if _is_whiteout(found):
            if _exists(lowers, path):
                yield Change(kind="D", path=f"/{path}")
            continue
        there = _exists(lowers, path)
        yield Change(kind="C" if there else "A", path=f"/{path}")
        if there and stat.S_ISDIR(found.st_mode) and _is_opaque(parent, path.rpartition("/")[2]):
            for name in sorted(_names(lowers, path) - _names((upper,), path)):
                yield Change(kind="D", path=f"/{path}/{name}")


def of_workload(name: str, layout: HostLayout, machine: Machine) -> tuple[Change, ...]:
    """Return what workload ``name`` has changed since it was started; nothing if it is read-only.

    Raises:
        NotRunningError: it does not run, so there is nothing that it wrote.
        TooManyChangesError: they are more than :data:`MAX_CHANGES`.
    """
    key = overview.require(name, layout).record.key(name)
    unit = workload_unit(key)
    state = machine.states([unit]).get(unit)
    if state is None or not state.main_pid:
        raise overview.NotRunningError(f"workload {name} is not running", hint="what it wrote is gone with its run")
    upper = layout.workloads / key / "upper"
    if not upper.is_dir():
        return ()
    with ExitStack() as stack:

        def opened(path: Path) -> int:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            return descriptor

        lowers = [opened(path) for path in _lowers(layout.runtime / "workloads" / key / "rootfs")]
        found = []
        for change in changes(opened(upper), lowers):
            found.append(change)
            if len(found) > MAX_CHANGES:
                raise TooManyChangesError(f"workload {name} has changed more than {MAX_CHANGES} paths")
        return tuple(found)


def _lowers(rootfs: Path) -> list[Path]:
    """Return the lower layers of the overlay at ``rootfs``, highest first (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(rootfs) and "overlay" in words:
            options = words[-1].split(",")
            joined = [option.partition("=")[2] for option in options if option.startswith(("lowerdir=", "lowerdir+="))]
            return [Path(path) for text in joined for path in text.split(":")]
    return []
