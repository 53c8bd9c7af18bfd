"""How the very tar of a layer is made again from its EROFS file: everything but the contents of files, in order.

An image can so be saved and pushed with the layers that it came with, although only their EROFS files are kept.
A recipe is one zstd stream of records: ``B`` with a length and bytes, ``F`` with a size, a length and the path whose
content comes next. Numbers are big-endian. What is made again is compared with the layer's diffID.

The contents are read out of the file itself, compressed or not, so nothing of a layer is ever unpacked into a folder or
mounted for it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

import zstandard

from hostctl.errors import HostctlError
from hostctl.image.tarstream import CHUNK, PATH_BYTES, Source
from hostctl.payload.erofs import Files
from hostctl.payload.erofs_index import Piece
from hostctl.payload.parts import LayoutError

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
class _Record:
    size: int
    data: bytes
    path: str


def _records(recipe: Path) -> Iterator[_Record]:
    with recipe.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        while kind := reader.read(1):
            if kind == b"B":
                (size,) = _BYTES.unpack(reader.read(_BYTES.size))
                if size > FLUSH + CHUNK:
                    raise RecipeError(f"{recipe} is damaged")
                yield _Record(size, reader.read(size), "")
            elif kind == b"F":
                size, length = _FILE.unpack(reader.read(_FILE.size))
                if length > PATH_BYTES:
                    raise RecipeError(f"{recipe} is damaged")
                yield _Record(size, b"", reader.read(length).decode("utf-8", "surrogateescape"))
            else:
                raise RecipeError(f"{recipe} is damaged")


def tar_size(recipe: Path) -> int:
    """Return how many bytes the tar has that a recipe makes."""
    return sum(record.size for record in _records(recipe))


def _contents(image: mmap.mmap, pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield the content of a file, part by part; LayoutError if it cannot be decompressed."""
    from lz4 import block  # noqa: PLC0415 - only here, and most that need this module import layers

    for piece in pieces:
        end = piece.offset + piece.stored
        if piece.packed:
            try:
                part = block.decompress(image[piece.offset : end].lstrip(b"\0"), uncompressed_size=piece.length)
            except block.LZ4BlockError as error:
                raise LayoutError(f"a file cannot be decompressed: {error}") from error
            yield part
        else:
            yield from (image[start : min(start + CHUNK, end)] for start in range(piece.offset, end, CHUNK))


def rebuild(layer: Path, recipe: Path, diff_id: str, write: Callable[[bytes], object]) -> None:
    """Make the tar of a layer again.

    Args:
        layer: its EROFS file.
        recipe: what :class:`Recorder` wrote of it.
        diff_id: the digest ``sha256:…`` that the tar must have.
        write: takes it, part by part.

    Raises:
        RecipeError: layer and recipe do not make it; what was written is then not to be used.
    """
    digest = sha256()

    def put(data: bytes) -> None:
        digest.update(data)
        write(data)

    try:
        with layer.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            files = Files(image)
            for record in _records(recipe):
                put(record.data)
                for part in _contents(image, files.pieces(record.path)) if record.path else ():
                    put(part)
    except (LayoutError, KeyError, struct.error, zstandard.ZstdError) as error:
        raise RecipeError(f"the layer {diff_id} cannot be made again", details=str(error)) from error
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise RecipeError(f"the layer {diff_id} cannot be made again", details="its files or its recipe differ")
