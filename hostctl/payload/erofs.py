"""Reads where the files of an EROFS image lie in it. Pure and bounded.

Only what mkfs.erofs makes for us: plain and inline data, no chunks; and compressed data, but not for a delta. Anything
else is a :class:`LayoutError`; a delta is then made without knowing names. Source: Linux, fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hostctl.payload.erofs_index import Piece, pieces
from hostctl.payload.parts import Content, Layout, LayoutError, Part, cover

MAGIC = 0xE0F5E1E2
SUPER = 1024
FLAT_PLAIN, FLAT_INLINE, COMPACT = 0, 2, 3
NODE_SLOT = 32  # bytes that a node number counts
FOLDER, FILE = 2, 1  # kinds of folder entries
MAX_NODES = 1 << 20
_ENTRY = struct.Struct("<QHBx")  # node, offset of the name, kind


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
    layout: int
    size: int
    block: int
    tail: int
    """Where inline data, or the index of compressed data, begins: behind the inode and its extended attributes."""


class _Image:
    def __init__(self, image: bytes | mmap.mmap) -> None:
        magic, self._bits, root, meta = struct.unpack_from("<I8xBxH24xI", image, SUPER)
        if magic != MAGIC or not 9 <= self._bits <= 16:
            raise LayoutError("no EROFS image")
        self._image = image
        self.block_size = 1 << self._bits
        self.root = root
        self.total = len(image)
        self._meta = meta * self.block_size

    def node(self, number: int) -> _Node:
        place = self._meta + number * NODE_SLOT
        head, attributes = struct.unpack_from("<HH", self._image, place)
        kind = head >> 1 & 7
        if kind not in (FLAT_PLAIN, FLAT_INLINE, COMPACT):
            raise LayoutError(f"an inode has data layout {kind}")
        size, block = struct.unpack_from("<QI" if head & 1 else "<I4xI", self._image, place + 8)
        tail = place + (64 if head & 1 else 32) + (12 + 4 * (attributes - 1) if attributes else 0)
        return _Node(layout=kind, size=size, block=block, tail=tail)

    def stretches(self, node: _Node) -> tuple[tuple[int, int], ...]:
        if node.layout == COMPACT:
            raise LayoutError("the image is compressed")
        start = node.block * self.block_size
        whole = node.size // self.block_size * self.block_size if node.layout == FLAT_INLINE else node.size
        found = [(start, whole), (node.tail, node.size - whole)]
        kept = tuple((offset, length) for offset, length in found if length)
        if any(offset + length > len(self._image) for offset, length in kept):
            raise LayoutError("a file reaches beyond the image")
        return kept

    def pieces(self, node: _Node) -> Iterator[Piece]:
        """Yield what a file's content is made of, in order."""
        if node.layout == COMPACT:
            yield from pieces(self._image, node.tail, node.size, self.block_size)
        else:
            yield from (Piece(offset, length, length) for offset, length in self.stretches(node))

    def entries(self, node: _Node) -> Iterator[tuple[str, int, int]]:
        """Yield name, node number and kind of what a folder holds."""
        data = b"".join(self._image[offset : offset + length] for offset, length in self.stretches(node))
        for start in range(0, len(data), self.block_size):
            yield from _block_entries(data[start : start + self.block_size])


def _block_entries(block: bytes) -> Iterator[tuple[str, int, int]]:
    (first,) = struct.unpack_from("<H", block, 8)
    if first < _ENTRY.size or first % _ENTRY.size:
        raise LayoutError("a folder's first name is not behind its entries")
    heads = [_ENTRY.unpack_from(block, place) for place in range(0, first, _ENTRY.size)]
    ends = [*(offset for _, offset, _ in heads[1:]), len(block)]
    for (number, offset, kind), end in zip(heads, ends, strict=True):
        name = block[offset:end].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        if name not in (".", ".."):
            yield name, number, kind


def read_erofs(image: bytes | mmap.mmap) -> Layout:
    """Return where the files of an image lie.

    Raises:
        LayoutError: it is no EROFS, or has a layout that none of our images has.
    """
    try:
        return _read(_Image(image))
    except (struct.error, RecursionError) as error:
        raise LayoutError(f"the EROFS image is cut off: {error}") from error


class Files:
    """Finds the contents of an image's regular files, compressed or not.

    Args:
        image: the whole image.

    Raises:
        LayoutError: it is no EROFS, or has a layout that none of our images has.
    """

    def __init__(self, image: bytes | mmap.mmap) -> None:
        try:
            self._image = _Image(image)
            self._nodes = _file_nodes(self._image)
        except struct.error as error:
            raise LayoutError(f"the EROFS image is cut off: {error}") from error

    def pieces(self, path: str) -> Iterator[Piece]:
        """Yield what the content of a file is made of, in order.

        Args:
            path: any of its names.

        Raises:
            KeyError: there is no such file.
            LayoutError: what the image says of it contradicts itself.
        """
        try:
            yield from self._image.pieces(self._image.node(self._nodes[path]))
        except struct.error as error:
            raise LayoutError(f"the EROFS image is cut off: {error}") from error


def _file_nodes(image: _Image) -> dict[str, int]:
    files: dict[str, int] = {}
    folders, seen = [("", image.root)], {image.root}
    while folders:
        path, number = folders.pop()
        for name, child, kind in image.entries(image.node(number)):
            if len(files) + len(seen) > MAX_NODES:
                raise LayoutError(f"more than {MAX_NODES} inodes")
            if kind == FOLDER and child not in seen:
                seen.add(child)
                folders.append((f"{path}{name}/", child))
            elif kind == FILE:
                files[path + name] = child
    return files


def _read(image: _Image) -> Layout:
    files: dict[int, Content] = {}
    folders = [("", image.root)]
    seen = {image.root}
    while folders:
        path, number = folders.pop()
        for name, child, kind in image.entries(image.node(number)):
            if child in seen:
                continue
            seen.add(child)
            if len(seen) > MAX_NODES:
                raise LayoutError(f"more than {MAX_NODES} inodes")
            if kind == FOLDER:
                folders.append((f"{path}{name}/", child))
            elif kind == FILE:
                files[child] = Content(name=path + name, stretches=image.stretches(image.node(child)))
    size = image.block_size
    parts = [
        Part(offset=offset, length=length, name=content.name)
        for content in files.values()
        for offset, length in content.stretches
        if offset % size == 0 and length >= size
    ]
    return Layout(parts=cover(parts, image.total), contents=tuple(files.values()))
