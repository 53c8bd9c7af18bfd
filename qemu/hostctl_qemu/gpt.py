"""Reads GUID partition tables, primary and backup, and says which of them are valid.

Source: UEFI specification 2.10, chapter 5. Firmware takes the backup where the primary is broken, and repairs the
primary by it (EDK2's PartitionDxe); Linux by itself never looks at the backup of a disk whose primary is broken.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from hostctl_qemu.view import DiskView

SECTOR = 512
SIGNATURE = b"EFI PART"
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
ENTRY = struct.Struct("<16s16sQQQ72s")
MAX_ENTRIES = 1024
MBR_TYPE = 0xEE


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One partition: places in bytes, type and identity lower case."""

    number: int
    type: str
    uuid: str
    label: str
    start: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt:
    """What a disk's tables say. Those that are not valid are none, with the reason in ``problems``."""

    primary: tuple[Partition, ...] | None
    backup: tuple[Partition, ...] | None
    problems: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    """Places and lengths of what was read to find this out."""

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Return the partitions that firmware finds."""
        return self.primary if self.primary is not None else self.backup or ()


class _InvalidError(Exception):
    """A table is not valid; the text says why."""


def read_gpt(disk: DiskView) -> Gpt:
    """Read both tables of a disk; never fails, see :class:`Gpt`."""
    problems: list[str] = []
    tables: list[tuple[Partition, ...] | None] = []
    place, backup = 1, disk.size // SECTOR - 1
    ranges = [(0, SECTOR)]
    for name in ("primary", "backup"):
        try:
            partitions, backup = _table(disk, place, backup, ranges)
            tables.append(partitions)
        except _InvalidError as error:
            problems.append(f"{name} table: {error}")
            tables.append(None)
        place = backup
    mbr = disk.read(0, SECTOR)
    if mbr[510:] != b"\x55\xaa" or MBR_TYPE not in mbr[450:510:16]:
        problems.append("no protective MBR")
    if None not in tables and tables[0] != tables[1]:
        problems.append("primary and backup table differ")
    return Gpt(primary=tables[0], backup=tables[1], problems=tuple(problems), ranges=tuple(ranges))


def _table(disk: DiskView, place: int, last: int, ranges: list[tuple[int, int]]) -> tuple[tuple[Partition, ...], int]:
    """Return the partitions of the table in sector ``place``, and the sector of the other table, at most ``last``."""
    ranges.append((place * SECTOR, SECTOR))
    block = disk.read(place * SECTOR, SECTOR)
    (signature, _, size, crc, _, own, other, _, _, _, first, count, entry_size, entries_crc) = HEADER.unpack_from(block)
    if signature != SIGNATURE:
        raise _InvalidError("no header")
    if not HEADER.size <= size <= SECTOR or entry_size != ENTRY.size or not 0 < count <= MAX_ENTRIES:
        raise _InvalidError(f"header of {size} bytes, {count} entries of {entry_size}")
    if zlib.crc32(block[:16] + bytes(4) + block[20:size]) != crc:
        raise _InvalidError("header's checksum is wrong")
    if own != place:
        raise _InvalidError(f"header is of sector {own}, not {place}")
    length = count * entry_size
    if (first * SECTOR) + length > disk.size:
        raise _InvalidError("entries lie outside the disk")
    ranges.append((first * SECTOR, length))
    entries = disk.read(first * SECTOR, length)
    if zlib.crc32(entries) != entries_crc:
        raise _InvalidError("entries' checksum is wrong")
    partitions = tuple(
        Partition(
            number=number,
            type=str(uuid.UUID(bytes_le=kind)),
            uuid=str(uuid.UUID(bytes_le=identity)),
            label=name.decode("utf-16-le", "replace").split("\0", 1)[0],
            start=start * SECTOR,
            size=(end - start + 1) * SECTOR,
        )
        for number, (kind, identity, start, end, _, name) in enumerate(ENTRY.iter_unpack(entries), 1)
        if any(kind) and start <= end < disk.size // SECTOR
    )
    return partitions, min(other, last)
