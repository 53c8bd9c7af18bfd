"""Makes the very tar of a layer again from its EROFS file, by the recipe that was written when it came.

The contents are read out of the file itself, compressed or not, so nothing of a layer is ever unpacked into a folder or
mounted for it. What is made again is compared with the layer's diffID.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import zstandard
from lz4 import block

from hostctl.image.recipe import RecipeError, records
from hostctl.image.tarstream import CHUNK
from hostctl.payload.erofs import Files
from hostctl.payload.erofs_index import Piece
from hostctl.payload.parts import LayoutError


def _contents(image: mmap.mmap, pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield the content of a file, part by part; LayoutError if it cannot be decompressed."""
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
        recipe: what :class:`hostctl.image.recipe.Recorder` wrote of it.
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
            for record in records(recipe):
                put(record.data)
                for part in _contents(image, files.pieces(record.path)) if record.path else ():
                    put(part)
    except (LayoutError, KeyError, struct.error, zstandard.ZstdError) as error:
        raise RecipeError(f"the layer {diff_id} cannot be made again", details=str(error)) from error
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise RecipeError(f"the layer {diff_id} cannot be made again", details="its files or its recipe differ")
