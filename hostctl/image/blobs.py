"""Where the bytes of an image lie until they are in the store: stretches of open files, read in place.

Nothing is known of them before they are used: whoever reads a stretch digests what it reads, in that same pass, so a
file that changes meanwhile is at most refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostctl.image.oci import ImageFormatError, check_digest, verified

DOCUMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of an open file: its descriptor, offset and size in bytes."""

    descriptor: int
    offset: int
    size: int

    def reader(self) -> Reader:
        """Return what reads it from its beginning, whatever else is done with the descriptor."""
        return Reader(self)

    def document(self, what: str, limit: int = DOCUMENT_BYTES) -> bytes:
        """Return all of it; more than ``limit`` bytes, or fewer in the file than it should have, are refused."""
        if self.size > limit:
            raise ImageFormatError(f"the {what} has more than {limit} bytes")
        reader, found = self.reader(), bytearray()
        while part := reader.read(self.size):
            found += part
        return bytes(found)


class Reader:
    """Reads a stretch once, in order."""

    def __init__(self, extent: Extent) -> None:
        self._descriptor = extent.descriptor
        self.position = extent.offset
        self._end = extent.offset + extent.size

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end of the stretch or of the file."""
        data = os.pread(self._descriptor, min(size, self._end - self.position), self.position)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over ``size`` bytes; tell whether the stretch has as many."""
        self.position = min(self.position + size, self._end + 1)
        return self.position <= self._end


class Blobs(Protocol):
    """The blobs of images, by digest."""

    def document(self, digest: str) -> bytes:
        """Return a small blob, verified; ImageFormatError if it is missing, too large or another one."""

    def layer(self, digest: str) -> AbstractContextManager[Extent]:
        """Return where a blob lies, not verified; ImageFormatError if it is missing."""


@contextmanager
def whole(path: Path) -> Iterator[Extent]:
    """Return all of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Extent(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def opened(blob: Path | Extent) -> AbstractContextManager[Extent]:
    """Return a blob that is a whole file, or is open already, as a stretch."""
    return whole(blob) if isinstance(blob, Path) else nullcontext(blob)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of an OCI layout (image-layout.md)."""

    folder: Path

    def path(self, digest: str) -> Path:
        """Return the path of a blob; one that is missing or no plain file raises ImageFormatError."""
        path = self.folder / "blobs/sha256" / check_digest(digest).removeprefix("sha256:")
        if path.is_symlink() or not path.is_file():
            raise ImageFormatError(f"the image's blob {digest} is missing")
        return path

    def document(self, digest: str) -> bytes:
        """See :class:`Blobs`."""
        with whole(self.path(digest)) as extent:
            return verified(extent.document(f"image's blob {digest}"), digest)

    def layer(self, digest: str) -> AbstractContextManager[Extent]:
        """See :class:`Blobs`."""
        return whole(self.path(digest))
