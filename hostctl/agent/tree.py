"""A tree of small files as values: what a generation lays over /etc, before it is on a disk.

Paths are relative, with ``/`` between their parts. Nothing here follows a symbolic link.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.errors import HostctlError


class TreeError(HostctlError):
    """Two parts want the same path below /etc, or a path leads out of it."""

    id = "generation-path-conflict"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A regular file with its permissions."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A symbolic link and what it points at."""

    target: str


Tree = Mapping[str, File | Link]


def text(content: str, mode: int = 0o644) -> File:
    """Return a file that holds ``content`` as UTF-8."""
    return File(content=content.encode(), mode=mode)


def merge(*trees: Tree) -> dict[str, File | Link]:
    """Return all trees as one.

    Raises:
        TreeError: a path is not a plain relative one, occurs twice, or is a file in one tree and a folder in another.
    """
    merged: dict[str, File | Link] = {}
    for tree in trees:
        for path, entry in tree.items():
            pure = PurePosixPath(path)
            if pure.is_absolute() or str(pure) != path or ".." in pure.parts or path == ".":
                raise TreeError(f"{path!r} is not a path below /etc")
            if path in merged and merged[path] != entry:
                raise TreeError(
                    f"/etc/{path} is written twice", hint="it is rendered from the declaration; leave it out of files"
                )
            merged[path] = entry
    for path in merged:
        for parent in PurePosixPath(path).parents:
            if str(parent) in merged:
                raise TreeError(f"/etc/{parent} would have to be a file and the folder of /etc/{path}")
    return merged


def write(root: Path, tree: Tree) -> None:
    """Write a tree into ``root``, which is made; nothing in it may exist yet. Folders get mode 0755."""
    root.mkdir(parents=True)
    made = set[PurePosixPath]()
    for path, entry in sorted(tree.items()):
        place = root / path
        for folder in reversed(PurePosixPath(path).parents):
            if folder not in made:
                (root / folder).mkdir(exist_ok=True)
                (root / folder).chmod(0o755)
                made.add(folder)
        if isinstance(entry, Link):
            place.symlink_to(entry.target)
            continue
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(entry.content)
            os.fchmod(file.fileno(), entry.mode)
