"""Reads the index of a compressed file of an EROFS image: which bytes of the image stand for which of the file.

Only what ``mkfs.erofs -zlz4`` writes: compact indexes of 4 KiB, LZ4 with its zeros in front, clusters of several
blocks. No packed tails, fragments, deduplicated or interlaced clusters; anything else is a :class:`LayoutError`. Pure
and bounded: an index is read as it is asked for, pack by pack.
Source: Linux, fs/erofs/erofs_fs.h and zmap.c.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hostctl.payload.parts import LayoutError

BITS = 12
CLUSTER = 1 << BITS  # bytes of a file for each entry of the index
CLUSTER_BYTES = 1 << 20  # the most that stands together compressed
PIECE_BYTES = 12 << 20  # the most that it may become
PLAIN, HEAD, CONTINUED = 0, 1, 2  # kinds of entries
COUNT = 1 << 11  # marks a continued entry that has a number of blocks
SHORT, BIG = 1, 6  # header: entries of two bytes; clusters of several blocks
LZ4 = 0
_HEADER = struct.Struct("<4xHBB")  # advice, algorithms, cluster bits


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an image that stands for ``length`` bytes of a file; ``packed`` by LZ4, with zeros in front."""

    offset: int
    stored: int
    length: int
    packed: bool = False


@dataclass(frozen=True, slots=True)
class _Head:
    """The first entry of a cluster: where it begins in the file, and in which block of the image."""

    start: int
    block: int
    packed: bool


def pieces(image: bytes | mmap.mmap, header: int, size: int, block_size: int) -> Iterator[Piece]:
    """Yield what the content of a file is made of, in order.

    Args:
        image: the whole image.
        header: offset of the index's header, behind the inode and its extended attributes.
        size: bytes of the file.
        block_size: bytes of a block of the image.

    Raises:
        LayoutError: the index contradicts itself, or says what mkfs.erofs does not write.
    """
    header = -(-header // 8) * 8
    advice, algorithms, bits = _HEADER.unpack_from(image, header)
    if advice & ~SHORT != BIG or algorithms != LZ4 or bits or block_size != CLUSTER:
        raise LayoutError(f"a file is compressed in another way: {advice:#x}, {algorithms}, {bits}")
    last, blocks = _Head(0, 0, packed=False), 0  # of the cluster that the next one ends
    place = 0
    for base, entries in _packs(image, header + _HEADER.size, -(-size // CLUSTER), short=bool(advice & SHORT)):
        block = base
        alone = False  # the cluster before began in this pack, and has one block unless an entry says more
        for kind, low in entries:
            if kind in (PLAIN, HEAD):
                block += alone
                head = _Head(place + low, block, kind == HEAD)
                if blocks:
                    yield _piece(last, blocks, head.start, len(image))
                elif head.start:
                    raise LayoutError("a file does not begin at its beginning")
                last, blocks, alone = head, 1, True
            elif kind != CONTINUED:
                raise LayoutError(f"an index has an entry of kind {kind}")
            elif low & COUNT:
                blocks = low & ~COUNT
                block += blocks
                alone = False
            place += CLUSTER
    if not blocks:
        raise LayoutError("an index has no beginning")
    if last.start != size:  # a last entry that only says where the file ends is there unless that is between entries
        yield _piece(last, blocks, size, len(image))


def _piece(head: _Head, blocks: int, end: int, total: int) -> Piece:
    length, stored, offset = end - head.start, blocks * CLUSTER, head.block * CLUSTER
    if not 0 < length <= PIECE_BYTES or not 0 < stored <= CLUSTER_BYTES or offset + stored > total:
        raise LayoutError("a compressed cluster has an impossible size or place")
    if not head.packed and length > stored:
        raise LayoutError("a plain cluster is shorter than what it stands for")
    return Piece(offset, stored if head.packed else length, length, head.packed)


def _packs(
    image: bytes | mmap.mmap, place: int, count: int, *, short: bool
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield packs of entries: the block where the first cluster in it begins or goes on, and kinds with their numbers.

    Packs have 2 entries of 4 bytes up to where 32 bytes are aligned, then 16 of 2 bytes, and the rest 2 of 4 bytes.
    """
    before = (32 - place % 32) // 4 % 8
    few = (count - before) // 16 * 16 if short and before < count else 0
    at = 0
    while at < count:
        entries, width = (16, 14) if before <= at < before + few else (2, 16)
        length = entries * width // 8 + 4
        pack = image[place : place + length]
        if len(pack) != length:
            raise LayoutError("an index is cut off")
        packed = int.from_bytes(pack[:-4], "little")
        values = [packed >> width * each & (1 << width) - 1 for each in range(min(entries, count - at))]
        yield int.from_bytes(pack[-4:], "little"), [(value >> BITS & 3, value & CLUSTER - 1) for value in values]
        at, place = at + entries, place + length
