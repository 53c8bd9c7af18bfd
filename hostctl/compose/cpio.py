"""Writes a ``newc`` cpio archive, the format of a Linux initrd, with nothing in it that varies.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

ALIGN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CpioEntry:
    """One file, folder or symbolic link, owned by root.

    ``path`` is relative; ``mode`` has the file type's bits; ``data`` is the content, or a link's target.
    """

    path: str
    mode: int
    data: bytes = b""


def folder(path: str) -> CpioEntry:
    """Return the entry of a folder."""
    return CpioEntry(path=path, mode=stat.S_IFDIR | 0o755)


def regular(path: str, data: bytes, *, executable: bool = False) -> CpioEntry:
    """Return the entry of a file."""
    return CpioEntry(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def link(path: str, target: str) -> CpioEntry:
    """Return the entry of a symbolic link."""
    return CpioEntry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def _pad(length: int) -> bytes:
    return bytes(-length % ALIGN)


def _record(inode: int, entry: CpioEntry, links: int) -> bytes:
    name = entry.path.encode() + b"\0"
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return header + _pad(len(header)) + entry.data + _pad(len(entry.data))


def archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return the archive of ``entries``, sorted by path, so that a folder stands before what is in it."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    records = [_record(number, entry, 1) for number, entry in enumerate(ordered, 1)]
    records.append(_record(0, CpioEntry(path="TRAILER!!!", mode=0), 1))
    return b"".join(records)
