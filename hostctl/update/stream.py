"""From a checked stream of bytes to a partition: decompressed with bounded memory, of exactly the right size, flushed.

Works on block devices and on files that stand in for them. Nothing here decides what goes where.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import zstandard

from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.update.slot import PartitionError, open_partition

MAX_WINDOW = 128 << 20  # bytes; what zstd --ultra --long=27 needs, and all the memory a payload may claim

Report = Callable[[int], None]


class StreamError(HostctlError):
    """A payload does not decompress to what it should."""

    id = "payload-corrupt"


class _Source:
    """The file-like face of an iterator that zstandard reads from; counts what it hands out."""

    def __init__(self, chunks: Iterator[bytes], report: Report) -> None:
        self._chunks = chunks
        self._report = report
        self._buffer = b""
        self._total = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if not self._buffer:
            self._buffer = next(self._chunks, b"")
            self._total += len(self._buffer)
            self._report(self._total)
        end = len(self._buffer) if size < 0 else size
        head, self._buffer = self._buffer[:end], self._buffer[end:]
        return head


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _flush(descriptor: int) -> None:
    """Flush to the disk and forget the cache, so that whoever reads next reads the disk."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def unpack(chunks: Iterator[bytes], partition: Path, size: int, report: Report) -> None:
    """Decompress a zstd stream into the start of ``partition``.

    Args:
        chunks: the compressed bytes; read to its end, so that it can check them.
        partition: device or file, which must exist.
        size: bytes that must come out.
        report: called with the compressed bytes read so far.

    Raises:
        StreamError: the stream is broken, wants too much memory, or has another size.
        PartitionError: the partition cannot be opened or written.
    """
    source = _Source(chunks, report)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    descriptor = open_partition(partition)
    try:
        written = 0
        with decompressor.stream_reader(cast("IO[bytes]", source), read_across_frames=True) as reader:
            while data := _decompressed(reader):
                written += len(data)
                if written > size:
                    raise StreamError(f"the root is larger than its {size} bytes")
                _write_all(descriptor, data)
        while source.read(CHUNK):  # the end of the stream is where its hash is checked
            pass
        if written != size:
            raise StreamError(f"the root has {written} bytes instead of {size}")
        _flush(descriptor)
    except OSError as error:
        raise PartitionError(f"cannot write {partition}", details=str(error)) from error
    finally:
        os.close(descriptor)


def _decompressed(reader: zstandard.ZstdDecompressionReader) -> bytes:
    try:
        return reader.read(CHUNK)
    except zstandard.ZstdError as error:
        raise StreamError("the compressed root is broken", details=str(error)) from error


def copy(chunks: Iterator[bytes], path: Path, report: Report) -> None:
    """Write a stream to a file, made anew, flushed. The caller renames it when it is content."""
    total = 0
    with path.open("wb") as file:
        for chunk in chunks:
            total += len(chunk)
            file.write(chunk)
            report(total)
        file.flush()
        _flush(file.fileno())
