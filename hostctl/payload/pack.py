"""Packs a full payload: every segment compressed by itself, without references. It runs on the builder only.

Which compressor makes the stored bytes is the caller's choice: a build gives the locked zstd, so that one lock always
makes the same bytes; what is only published may use the library (:func:`library_compressor`). Whatever it is, each
frame is decompressed and compared before it is written.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hostctl.errors import HostctlError
from hostctl.payload.frame import FrameError, decompress
from hostctl.payload.index import SEGMENT, Index, Method, Output, Segment, encode_index, stored_limit

INDEX_NAME = "payload.index"
SEGMENTS_NAME = "payload.segments"

Compressor = Callable[[Path, Path], None]
"""Compresses every file of the first folder to a file of the same name in the second, one zstd frame with its content
size each. The folders exist; the names are plain digits and letters."""


class PackError(HostctlError):
    """A payload cannot be packed."""

    id = "payload-pack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """The two files that a release is updated by."""

    root: Path
    uki: Path

    @property
    def by_output(self) -> Mapping[str, Path]:
        """Return them by the name of their output."""
        return {"root": self.root, "uki": self.uki}


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A payload on the disk."""

    index: Path
    segments: Path

    @property
    def bytes(self) -> int:
        """Return what a host loads that has nothing of it."""
        return self.index.stat().st_size + self.segments.stat().st_size


def library_compressor(level: int = 12) -> Compressor:
    """Return a compressor that uses the zstd library of this Python."""

    def compress(sources: Path, frames: Path) -> None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        for path in sorted(sources.iterdir()):
            (frames / path.name).write_bytes(compressor.compress(path.read_bytes()))

    return compress


def cut(path: Path, size: int = SEGMENT) -> Iterator[bytes]:
    """Yield the segments of a file in order.

    Raises:
        PackError: it is empty.
    """
    with path.open("rb") as file:
        data = file.read(size)
        if not data:
            raise PackError(f"{path} is empty")
        while data:
            yield data
            data = file.read(size)


def pack_full(files: Files, output: Path, compress: Compressor, *, size: int = SEGMENT) -> Packed:
    """Write the full payload of a release to ``output``, an existing folder, and return it.

    Args:
        files: the release.
        output: gets :data:`INDEX_NAME` and :data:`SEGMENTS_NAME`.
        compress: makes the frames; see :data:`Compressor`.
        size: bytes of output in a segment.

    Raises:
        PackError: a file is empty, or a frame does not hold its segment.
        PayloadIndexError: the release has more segments than an index can hold.
    """
    packed = Packed(index=output / INDEX_NAME, segments=output / SEGMENTS_NAME)
    outputs: dict[str, Output] = {}
    with packed.segments.open("wb") as store, tempfile.TemporaryDirectory(dir=output, prefix=".pack-") as scratch:
        for name, path in files.by_output.items():
            folder = Path(scratch, name)
            plain, frames = folder / "plain", folder / "frames"
            plain.mkdir(parents=True)
            frames.mkdir()
            for number, data in enumerate(cut(path, size)):
                (plain / f"{number:08}").write_bytes(data)
            compress(plain, frames)
            segments: list[Segment] = []
            for piece in sorted(plain.iterdir()):
                segment, frame = _stored(name, piece, frames / piece.name, len(segments) * size, store.tell())
                segments.append(segment)
                store.write(frame)
            outputs[name] = Output(bytes=path.stat().st_size, segments=tuple(segments))
    packed.index.write_bytes(encode_index(Index(outputs=outputs, references={})))
    return packed


def _stored(output: str, plain: Path, frame: Path, offset: int, place: int) -> tuple[Segment, bytes]:
    data, stored = plain.read_bytes(), frame.read_bytes()
    try:
        same = decompress(stored, len(data), len(data)) == data
    except FrameError as error:
        raise PackError("the compressor made no usable frame", details=str(error)) from error
    if not same or len(stored) > stored_limit(len(data)):
        raise PackError("the compressor made a frame that does not hold its segment")
    segment = Segment(
        output=output,
        offset=offset,
        length=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        method=Method.ZSTD,
        stored_offset=place,
        stored_bytes=len(stored),
        stored_sha256=hashlib.sha256(stored).hexdigest(),
    )
    return segment, stored
