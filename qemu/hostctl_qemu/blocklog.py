"""Reads the log that QEMU's `blklogwrites` filter keeps of everything a guest writes to a disk.

The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a
superblock of one sector, then for each request a sector with its header and after it the data, if it has any. The log
may still be growing: reading stops before the first request that is not complete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hostctl.errors import HostctlError

MAGIC = 0x6A736677736872
VERSION = 1
SUPERBLOCK = struct.Struct("<QQQI")  # magic, version, number of entries, bytes a sector
HEADER = struct.Struct("<QQQQ")  # sector, sectors, flags, length of a mark
SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
KNOWN_FLAGS = FLUSH | FUA | DISCARD | MARK


class BlockLogError(HostctlError):
    """A file is no log of a disk's writes."""

    id = "block-log"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of the guest."""

    index: int
    start: int
    """Place on the disk, in bytes."""
    length: int
    """Bytes written or discarded; 0 for a flush alone."""
    flags: int
    data: int
    """Where in the log the written bytes are."""
    end: int
    """Where in the log the next request begins."""

    @property
    def flush(self) -> bool:
        """Tell whether all completed before must be on the medium when this completes."""
        return bool(self.flags & FLUSH)

    @property
    def fua(self) -> bool:
        """Tell whether this write itself must be on the medium when it completes."""
        return bool(self.flags & FUA)

    @property
    def discard(self) -> bool:
        """Tell whether the content is given up instead of written."""
        return bool(self.flags & DISCARD)

    def touches(self, start: int, end: int) -> bool:
        """Tell whether it changes anything between two places of the disk."""
        return self.length > 0 and self.start < end and start < self.start + self.length


def sector_size(log: BinaryIO) -> int:
    """Return the sector size that a log's superblock names; 512 if QEMU has not written one yet.

    Raises:
        BlockLogError: the file is no log.
    """
    log.seek(0)
    block = log.read(SUPERBLOCK.size).ljust(SUPERBLOCK.size, b"\0")
    magic, version, _, size = SUPERBLOCK.unpack(block)
    if not any(block):
        return SECTOR
    if magic != MAGIC or version != VERSION or size not in (512, 1024, 2048, 4096):
        raise BlockLogError("this is no log of a disk's writes", details=block.hex())
    return int(size)


def read_log(path: Path, *, strict: bool = False) -> Iterator[Request]:
    """Return the requests in a log, in order; their data stays in the file.

    Args:
        path: the log.
        strict: insist on the number of requests that the superblock names, as a log has it after QEMU ended.

    Raises:
        BlockLogError: it is no log, a request makes no sense, or some are missing.
    """
    limit = path.stat().st_size
    with path.open("rb") as log:
        size = sector_size(log)
        position, index = size, 0
        while position + size <= limit:
            log.seek(position)
            sector, sectors, flags, mark = HEADER.unpack(log.read(HEADER.size))
            if not (sectors or flags):
                break  # nothing is written there yet
            if flags & ~KNOWN_FLAGS or mark:
                raise BlockLogError(f"request {index} of the log makes no sense", details=f"flags {flags}, mark {mark}")
            data = position + size
            end = data + (0 if flags & DISCARD else sectors * size)
            if end > limit:
                break
            yield Request(index=index, start=sector * size, length=sectors * size, flags=flags, data=data, end=end)
            position, index = end, index + 1
        log.seek(0)
        wanted = SUPERBLOCK.unpack(log.read(SUPERBLOCK.size).ljust(SUPERBLOCK.size, b"\0"))[2]
    if strict and index < wanted:
        raise BlockLogError(f"the log ends after {index} of {wanted} requests")
