"""How the very tar of a layer is made again from its EROFS file: everything but the contents of files, in order.

An image can so be saved and pushed with the layers that it came with, although only their EROFS files are kept.
A recipe is one zstd stream of records: ``B`` with a length and bytes, ``F`` with a size, a length and the path whose
content comes next. Numbers are big-endian. :mod:`hostctl.image.rebuild` follows it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from hostctl.errors import HostctlError
from hostctl.image.tarstream import CHUNK, PATH_BYTES, Source

LEVEL = 3
SMALL = 256
"""Contents of so many bytes stand in the recipe."""
FLUSH = 64 << 10
_BYTES, _FILE = struct.Struct(">I"), struct.Struct(">QH")


class RecipeError(HostctlError):
    """A layer's tar cannot be made again."""

    id = "image-recipe"


class Recorder:
    """Reads a layer and writes its recipe; what is read in between as the content of a file is only named."""

    def __init__(self, source: Source, output: IO[bytes]) -> None:
        self._source = source
        self._writer = zstandard.ZstdCompressor(level=LEVEL).stream_writer(output, closefd=False)
        self._raw = bytearray()
        self._skip = 0

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        data = self._source.read(size)
        content = min(self._skip, len(data))
        self._skip -= content
        self._raw += data[content:]
        if len(self._raw) >= FLUSH:
            self._flush()
        return data

    def content(self, path: str, size: int) -> None:
        """Say that the next ``size`` bytes are the content of the file at ``path``."""
        name = path.encode("utf-8", "surrogateescape")
        if size <= SMALL or name.rpartition(b"/")[2].startswith(b".wh."):
            return
        self._flush()
        self._writer.write(b"F" + _FILE.pack(size, len(name)) + name)
        self._skip = size

    def _flush(self) -> None:
        if self._raw:
            self._writer.write(b"B" + _BYTES.pack(len(self._raw)) + self._raw)
            self._raw.clear()

    def finish(self) -> None:
        """Write the rest."""
        self._flush()
        self._writer.flush(zstandard.FLUSH_FRAME)


@dataclass(frozen=True, slots=True)
class Record:
    """Bytes of the tar, or the path of the file whose content comes next; and how many bytes that is."""

    size: int
    data: bytes
    path: str


def records(recipe: Path) -> Iterator[Record]:
    """Yield what a recipe says, in order.

    Raises:
        RecipeError: it is damaged.
    """
    with recipe.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        while kind := reader.read(1):
            if kind == b"B":
                (size,) = _BYTES.unpack(reader.read(_BYTES.size))
                if size > FLUSH + CHUNK:
                    raise RecipeError(f"{recipe} is damaged")
                yield Record(size, reader.read(size), "")
            elif kind == b"F":
                size, length = _FILE.unpack(reader.read(_FILE.size))
                if length > PATH_BYTES:
                    raise RecipeError(f"{recipe} is damaged")
                yield Record(size, b"", reader.read(length).decode("utf-8", "surrogateescape"))
            else:
                raise RecipeError(f"{recipe} is damaged")


def tar_size(recipe: Path) -> int:
    """Return how many bytes the tar has that a recipe makes."""
    return sum(record.size for record in records(recipe))
