"""Files that survive a power cut: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20


def sync_directory(path: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Give a file to write that takes the place of ``path`` in one step at the end, which a power cut cannot tear.

    Whatever is raised meanwhile leaves what was at ``path``, and nothing beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at ``path`` by ``data`` in one step that a power cut cannot tear."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def replace_symlink(link: Path, target: str) -> None:
    """Point ``link`` at ``target`` in one step that a power cut cannot tear."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_directory(link.parent)


def sync_tree(root: Path) -> None:
    """Flush every file and folder below ``root`` to the disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def sync_file_system(folder: Path) -> None:
    """Flush all of the file system that ``folder`` is on (syncfs(2)): many files at the price of one.

    Raises:
        OSError: something that was written to it did not reach the disk.
    """
    from hostctl.libc import call, library  # noqa: PLC0415 - ctypes is needed only by a change, start-up counts

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(library().syncfs, descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
