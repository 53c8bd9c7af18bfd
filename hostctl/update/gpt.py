"""Writes labels and UUIDs of partitions so that a whole partition table is on the disk at every moment.

A GPT is an array of entries and a header with its checksum, twice: at the start and at the end of the disk. An array
and a header cannot be written in one step, and the kernel does not look at the second copy when the first one is torn
(unless told to by ``gpt`` on its command line). So the new array goes where the present one is not, in the free sectors
before the first partition, and is flushed; then one sector, the header, makes it the one in force. The copy at the end
follows when the first is safe. Only labels and UUIDs change; everything else is kept as it was read.

Source: UEFI specification 2.10, 5.3 GUID Partition Table Disk Layout. Writing with sfdisk flushes once, after both
copies, so a disk with a cache may be left with neither.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl.boot.slots import Table
from hostctl.errors import HostctlError

PRIMARY = 1  # sector of the first header
MAX_ARRAY = 1 << 20  # bytes; 128 entries of 128 bytes are usual
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_SIGNATURE = b"EFI PART"
_NAME_BYTES = 72
_NAME_OFFSET = 56


class TableError(HostctlError):
    """The partition table on the disk cannot be read or written."""

    id = "partition-table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One of both copies: a header and its array, whose checksums are right. Places count sectors."""

    header: bytes
    """The whole sector."""
    place: int
    alternate: int
    first: int
    """First sector that partitions may use."""
    array_place: int
    entry_bytes: int
    array: bytes

    def moved(self, array: bytes, array_place: int) -> Copy:
        """Return the copy with another array somewhere else, and the header that belongs to it."""
        fields = list(_HEADER.unpack_from(self.header))
        fields[3], fields[10], fields[13] = 0, array_place, zlib.crc32(array)
        size = fields[2]
        plain = _HEADER.pack(*fields) + self.header[_HEADER.size :]
        fields[3] = zlib.crc32(plain[:size])
        header = _HEADER.pack(*fields) + self.header[_HEADER.size :]
        return replace(self, header=header, array=array, array_place=array_place)

    def at(self, place: int, alternate: int) -> Copy:
        """Return the copy as it is at another place."""
        fields = list(_HEADER.unpack_from(self.header))
        fields[5], fields[6] = place, alternate
        header = _HEADER.pack(*fields) + self.header[_HEADER.size :]
        return replace(self, header=header, place=place, alternate=alternate)


def parse(header: bytes, place: int, read: Callable[[int, int], bytes]) -> Copy:
    """Read a copy.

    Args:
        header: the sector at ``place``.
        place: the sector's number.
        read: returns so many bytes from a sector on.

    Raises:
        ValueError: it is no header, or damaged.
    """
    fields = _HEADER.unpack_from(header)
    signature, _, size, crc, reserved, my, alternate, first = fields[:8]
    array_place, count, entry_bytes, array_crc = fields[10:]
    if signature != _SIGNATURE or not _HEADER.size <= size <= len(header) or reserved or my != place:
        raise ValueError("no header")
    if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
        raise ValueError("the header's checksum is wrong")
    if entry_bytes < 128 or entry_bytes % 128 or not 0 < count * entry_bytes <= MAX_ARRAY:
        raise ValueError("an array of that shape is not read")
    array = read(array_place, count * entry_bytes)
    if len(array) != count * entry_bytes or zlib.crc32(array) != array_crc:
        raise ValueError("the array's checksum is wrong")
    return Copy(
        header=header,
        place=place,
        alternate=alternate,
        first=first,
        array_place=array_place,
        entry_bytes=entry_bytes,
        array=array,
    )


def renamed(copy: Copy, wanted: Mapping[int, tuple[str, str]]) -> bytes:
    """Return the array with other labels and UUIDs.

    Args:
        copy: where it is taken from.
        wanted: label and UUID by the first sector of a partition.

    Raises:
        ValueError: there is no such partition.
    """
    array, left = bytearray(copy.array), dict(wanted)
    for start in range(0, len(array), copy.entry_bytes):
        entry = array[start : start + copy.entry_bytes]
        (first,) = struct.unpack_from("<Q", entry, 32)
        if not any(entry[:16]) or first not in left:
            continue
        label, identity = left.pop(first)
        entry[16:32] = uuid.UUID(identity).bytes_le
        entry[_NAME_OFFSET : _NAME_OFFSET + _NAME_BYTES] = label.encode("utf-16-le").ljust(_NAME_BYTES, b"\0")
        if len(entry) != copy.entry_bytes:
            raise ValueError(f"label {label!r} is too long")
        array[start : start + copy.entry_bytes] = entry
    if left:
        raise ValueError(f"no partition starts at sector {min(left)}")
    return bytes(array)


class _Disk:
    """A disk or an image, in sectors."""

    def __init__(self, descriptor: int, sector: int) -> None:
        self.descriptor = descriptor
        self.sector = sector
        self.last = os.lseek(descriptor, 0, os.SEEK_END) // sector - 1

    def read(self, place: int, size: int) -> bytes:
        if not 0 <= place <= self.last:
            return b""
        return os.pread(self.descriptor, size, place * self.sector)

    def copy(self, place: int) -> Copy | None:
        try:
            return parse(self.read(place, self.sector), place, self.read)
        except (ValueError, struct.error):
            return None

    def write(self, place: int, data: bytes) -> None:
        """Write and flush."""
        written = 0
        while written < len(data):
            written += os.pwrite(self.descriptor, data[written:], place * self.sector + written)
        os.fsync(self.descriptor)

    def sectors(self, array: bytes) -> int:
        return -(-len(array) // self.sector)


def write_table(disk: Path, table: Table, between: Callable[[], None] = lambda: None) -> bool:
    """Give the partitions on ``disk`` the labels and UUIDs that they have in ``table``; mend a copy that is damaged.

    Args:
        disk: device or image.
        table: as it shall be. Partitions are told by where they start; places, sizes and types are not written.
        between: called when the first copy is written and flushed, and the second is not.

    Returns:
        False if both copies were so already.

    Raises:
        TableError: neither copy can be read, or the disk cannot be written.
    """
    wanted = {part.start: (part.label, part.uuid) for part in table.partitions}
    try:
        descriptor = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TableError(f"cannot open {disk} for writing", details=str(error)) from error
    try:
        return _write(_Disk(descriptor, table.sector), wanted, between)
    except (OSError, ValueError) as error:
        raise TableError(f"the partition table of {disk} cannot be written", details=str(error)) from error
    finally:
        os.close(descriptor)


def _write(disk: _Disk, wanted: Mapping[int, tuple[str, str]], between: Callable[[], None]) -> bool:
    primary = disk.copy(PRIMARY)
    backup = disk.copy(primary.alternate if primary else disk.last)
    source = primary or backup
    if source is None:
        raise ValueError("both copies are damaged")
    array = renamed(source, wanted)
    if primary is not None and backup is not None and primary.array == backup.array == array:
        return False
    if primary is None or primary.array != array:
        if backup is None or (primary is not None and backup.array != primary.array):
            _write_backup(disk, source)  # a whole copy besides the one that is written next
        _write_primary(disk, source, array, backup)
    between()
    written = disk.copy(PRIMARY)
    if written is None or written.array != array:
        raise ValueError("the first copy reads back wrong")
    _write_backup(disk, written)
    return True


def _write_primary(disk: _Disk, source: Copy, array: bytes, backup: Copy | None) -> None:
    length = disk.sectors(array)
    usual = PRIMARY + 1
    elsewhere = usual + length if source.place == PRIMARY and source.array_place == usual else usual
    if elsewhere + length > source.first:
        elsewhere = usual  # no room for two; the backup is whole
    disk.write(elsewhere, array)
    alternate = source.alternate if source.place == PRIMARY else source.place
    if backup is not None:
        alternate = backup.place
    disk.write(PRIMARY, source.at(PRIMARY, alternate).moved(array, elsewhere).header)


def _write_backup(disk: _Disk, primary: Copy) -> None:
    place = primary.alternate if primary.place == PRIMARY else primary.place
    array_place = place - disk.sectors(primary.array)
    disk.write(array_place, primary.array)
    disk.write(place, primary.at(place, PRIMARY).moved(primary.array, array_place).header)
