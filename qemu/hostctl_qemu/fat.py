"""Reads FAT12, FAT16 and FAT32 from a disk view, as firmware does: first copy of the table, long names, no writing.

Only what is asked for is read, so a whole EFI system partition is understood in milliseconds. Broken chains and
folders do not raise: what is wrong with a file is said in :attr:`FatFile.problem`, because one broken file does not
keep firmware from reading the others. Source: Microsoft's FAT specification, 2000.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostctl.errors import HostctlError
from hostctl_qemu.view import DiskView, Fingerprint

BPB = struct.Struct("<3x8sHBHBHHBHHHII")
ENTRY_SIZE = 32
LONG_NAME, FOLDER, VOLUME = 0x0F, 0x10, 0x08
LONG_NAME_PLACES = ((1, 11), (14, 26), (28, 32))
MAX_FOLDER = 65536 * ENTRY_SIZE
DELETED, END = 0xE5, 0x00
LOWER_BASE, LOWER_EXTENSION = 0x08, 0x10


class FatError(HostctlError):
    """A partition holds no FAT file system that could be read."""

    id = "fat-unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class FatFile:
    """A file or folder: where its bytes are on the disk, as places and lengths."""

    name: str
    short_name: str
    folder: bool
    size: int
    extents: tuple[tuple[int, int], ...]
    problem: str = ""

    def read(self, disk: DiskView) -> bytes:
        """Return the contents."""
        return b"".join(disk.read(start, length) for start, length in self.extents)

    def fingerprint(self, disk: DiskView) -> Fingerprint:
        """Return what determines the contents."""
        return tuple(piece for start, length in self.extents for piece in disk.fingerprint(start, length))


class Fat:
    """The FAT file system in a range of a disk.

    Raises:
        FatError: there is none, or its boot sector makes no sense.
    """

    def __init__(self, disk: DiskView, start: int, size: int) -> None:
        self.disk = disk
        block = disk.read(start, 512)
        (_, sector, per_cluster, reserved, copies, roots, small, _, fat16, _, _, _, large) = BPB.unpack_from(block)
        (fat32, _, _, root) = struct.unpack_from("<IHHI", block, 36)
        fat, total = fat16 or fat32, small or large
        if block[510:] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or not per_cluster or not copies:
            raise FatError("no FAT boot sector", details=block[:64].hex())
        root_sectors = -(-roots * ENTRY_SIZE // sector)
        data = reserved + copies * fat + root_sectors
        if not reserved or not fat or data >= total or total * sector > size:
            raise FatError("the FAT boot sector makes no sense", details=block[:64].hex())
        self._cluster = per_cluster * sector
        self._data = start + data * sector
        self._count = (total - data) // per_cluster
        self._bits = 12 if self._count < 4085 else 16 if self._count < 65525 else 32
        self._tables = [disk.read(start + (reserved + copy * fat) * sector, fat * sector) for copy in range(copies)]
        self._root = ((start + (reserved + copies * fat) * sector, roots * ENTRY_SIZE),) if self._bits != 32 else None
        self._root_cluster = root
        self._table = self._links()

    @property
    def copies_differ(self) -> bool:
        """Tell whether the copies of the table are not alike."""
        return any(table != self._tables[0] for table in self._tables[1:])

    def _links(self) -> Sequence[int]:
        """Return the first copy of the table as numbers; in FAT32 the top four bits mean nothing."""
        table = self._tables[0]
        if self._bits == 32:
            return array("I", table)
        if self._bits == 16:
            return array("H", table)
        pairs = (struct.unpack_from("<H", table, number * 3 // 2)[0] for number in range(self._count + 2))
        return [pair >> 4 if number & 1 else pair & 0xFFF for number, pair in enumerate(pairs)]

    def _chain(self, cluster: int, size: int | None) -> tuple[tuple[tuple[int, int], ...], str]:
        """Return the extents of a chain, and what is wrong with it. ``size`` is none for folders.

        Chains are mostly runs of neighbours, so runs are what is looped over. One that goes in a circle ends where the
        file does.
        """
        links, mask, step = self._table, (1 << min(self._bits, 28)) - 1, self._cluster
        left, extents = MAX_FOLDER if size is None else size, list[tuple[int, int]]()
        while left > 0:
            if cluster >= mask - 7 and size is None:
                break
            if not 2 <= cluster < self._count + 2:
                what = "ends" if cluster >= mask - 7 else f"leads to {cluster}"
                return tuple(extents), f"its chain of clusters {what}, {left} bytes too early"
            first, last = cluster, min(cluster + -(-left // step), self._count + 2)
            following = links[cluster] & mask
            while following == cluster + 1 and following < last:
                cluster = following
                following = links[cluster] & mask
            length = min(left, (cluster + 1 - first) * step)
            extents.append((self._data + (first - 2) * step, length))
            left -= length
            cluster = following
        return tuple(extents), ""

    def _entries(self, extents: tuple[tuple[int, int], ...]) -> Mapping[str, FatFile]:
        data = b"".join(self.disk.read(start, length) for start, length in extents)
        found: dict[str, FatFile] = {}
        parts: list[bytes] = []
        for place in range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE):
            entry = data[place : place + ENTRY_SIZE]
            if entry[0] == END:
                break
            if entry[0] != DELETED and entry[11] & 0x3F == LONG_NAME:
                parts = [*([] if entry[0] & 0x40 else parts), entry]
                continue
            if entry[0] != DELETED and not entry[11] & VOLUME and not entry.startswith(b"."):
                file = self._file(entry, _long_name(parts, entry))
                found.setdefault(file.name.lower(), file)
            parts = []
        return found

    def _file(self, entry: bytes, long_name: str | None) -> FatFile:
        high, low, size = struct.unpack_from("<H4xHI", entry, 20)
        folder = bool(entry[11] & FOLDER)
        cluster = (high << 16 | low) if self._bits == 32 else low
        extents, problem = self._chain(cluster, None if folder else size)
        short = _short_name(entry)
        return FatFile(
            name=long_name or short,
            short_name=short,
            folder=folder,
            size=size,
            extents=extents,
            problem=problem,
        )

    def list(self, path: str) -> Mapping[str, FatFile]:
        """Return the files of a folder by their names in lower case; empty if there is no such folder.

        Args:
            path: names joined by ``/``; case does not matter.
        """
        extents = self._root if self._root is not None else self._chain(self._root_cluster, None)[0]
        entries = self._entries(extents)
        for name in filter(None, path.lower().split("/")):
            file = entries.get(name)
            if file is None or not file.folder:
                return {}
            entries = self._entries(file.extents)
        return entries

    def find(self, path: str) -> FatFile | None:
        """Return the file with this path, if it is there."""
        folder, _, name = path.rpartition("/")
        return self.list(folder).get(name.lower())


def _short_name(entry: bytes) -> str:
    base = entry[:8].decode("cp437").rstrip(" ")
    extension = entry[8:11].decode("cp437").rstrip(" ")
    base = base.lower() if entry[12] & LOWER_BASE else base
    extension = extension.lower() if entry[12] & LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base


def _checksum(entry: bytes) -> int:
    value = 0
    for byte in entry[:11]:
        value = ((value & 1) << 7 | value >> 1) + byte & 0xFF
    return value


def _long_name(parts: list[bytes], entry: bytes) -> str | None:
    """Return the name that the entries before a file spell; none if they are not complete, or another file's."""
    if not parts or len(parts) != parts[0][0] & 0x3F:
        return None
    wanted = _checksum(entry)
    orders = [part[0] & 0x3F for part in parts]
    if orders != list(range(len(parts), 0, -1)) or any(part[13] != wanted for part in parts):
        return None
    raw = b"".join(part[first:last] for part in reversed(parts) for first, last in LONG_NAME_PLACES)
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0]
