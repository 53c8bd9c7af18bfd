"""Removes a tree that somebody else made: however deep it is, with three open files and without recursion.

A workload can put folders into each other a hundred thousand times, where one open file for each would never be enough.
So the way down is gone by one folder at a time, and the way up by ``..``, if that is still the folder that it was come
from. No link is followed, nothing that is mounted in the tree is entered, and whatever comes or goes meanwhile, nothing
but what was in the tree is removed.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NAMES = 4096  # of folders that are kept in memory for each folder on the way


@dataclass(slots=True)
class _Level:
    """A folder on the way down: its name, which it is, and the folders in it that are known and still there."""

    name: str
    identity: tuple[int, int]
    folders: list[str] = field(default_factory=list)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; nothing if there is none.

    Args:
        path: the folder; those above it are trusted.

    Raises:
        NotADirectoryError: it is a file or a link.
        OSError: something cannot be removed, or is mounted in it, or a folder was moved away meanwhile.
    """
    try:
        above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with suppress(FileNotFoundError):
            _clear(os.open(path.name, FOLDER, dir_fd=above))
            os.rmdir(path.name, dir_fd=above)
    finally:
        os.close(above)


def _clear(folder: int) -> None:
    """Remove all that is in an open folder, and close it."""
    way, inside = list[_Level](), _Level("", _identity(folder))
    try:
        while True:
            if inside.folders:
                name = inside.folders.pop()
                with suppress(FileNotFoundError, NotADirectoryError):  # else the next look shows what it is by now
                    inner = _enter(folder, name, inside.identity[0])
                    os.close(folder)
                    folder = inner
                    way.append(inside)
                    inside = _Level(name, _identity(folder))
            elif _look(folder, inside):
                continue
            elif way:
                outer = _leave(folder, way[-1])
                os.close(folder)
                folder = outer
                with suppress(FileNotFoundError):
                    os.rmdir(inside.name, dir_fd=folder)
                inside = way.pop()
            else:
                return
    finally:
        os.close(folder)


def _look(folder: int, level: _Level) -> bool:
    """Remove what is no folder, and note what is one; return whether there was anything."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            found = True
            if entry.is_dir(follow_symlinks=False):
                level.folders.append(entry.name)
                if len(level.folders) == NAMES:
                    break
            else:
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(entry.name, dir_fd=folder)
    return found


def _enter(folder: int, name: str, device: int) -> int:
    inner = os.open(name, FOLDER, dir_fd=folder)
    if os.fstat(inner).st_dev != device:
        os.close(inner)
        raise OSError(errno.EBUSY, "something is mounted there", name)
    return inner


def _leave(folder: int, level: _Level) -> int:
    """Open the folder that a folder lies in, if it is still the one that it was entered from."""
    outer = os.open("..", FOLDER, dir_fd=folder)
    if _identity(outer) != level.identity:
        os.close(outer)
        raise OSError(errno.ESTALE, "a folder was moved away while its tree was removed", level.name)
    return outer


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino
