"""Disks that are never written out: pieces of files laid over each other, forked in microseconds.

A disk is a sorted list of pieces, each a range of some file; writing replaces pieces and copies nothing. What a range
holds is therefore known by where its pieces come from, see :meth:`DiskView.fingerprint`, and whoever judges thousands
of disks that are nearly alike need not read what it has judged before. The files must not change meanwhile.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.run import run

COPY_BYTES = 1 << 20
CONVERT_SECONDS = 600.0

Fingerprint = tuple[tuple[int, int, int], ...]
"""Pieces as number of the file, offset in it, and length."""


class ViewError(HostctlError):
    """A disk was asked for something that it does not have."""

    id = "disk-view"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``end`` of a disk, from ``offset`` on in file number ``file``; 0 stands for zeros."""

    start: int
    end: int
    file: int
    offset: int

    def part(self, start: int, end: int) -> Piece:
        """Return what the piece has between two places of the disk."""
        first = max(self.start, start)
        return Piece(first, min(self.end, end), self.file, self.offset + first - self.start)


class Files:
    """The open files that pieces name, by number. Number 0 is endless zeros."""

    def __init__(self) -> None:
        self._descriptors: list[int] = [-1]

    def add(self, path: Path) -> int:
        """Open a file and return its number."""
        self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return len(self._descriptors) - 1

    def add_bytes(self, data: bytes) -> int:
        """Keep some bytes as a file of their own and return its number."""
        descriptor = os.memfd_create("hostctl-view", os.MFD_CLOEXEC)
        os.write(descriptor, data)
        self._descriptors.append(descriptor)
        return len(self._descriptors) - 1

    def read(self, piece: Piece) -> bytes:
        """Return a piece's bytes; what lies beyond its file's end reads as zeros."""
        length = piece.end - piece.start
        if piece.file == 0:
            return bytes(length)
        return os.pread(self._descriptors[piece.file], length, piece.offset).ljust(length, b"\0")

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._descriptors[1:]:
            os.close(descriptor)
        del self._descriptors[1:]


class DiskView:
    """One disk. Made by :func:`open_disk`; :meth:`fork` gives another that starts alike."""

    def __init__(self, files: Files, pieces: list[Piece]) -> None:
        self.files = files
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]

    @classmethod
    def over(cls, files: Files, number: int, size: int) -> DiskView:
        """Return a disk of ``size`` bytes that is one file's beginning."""
        return cls(files, [Piece(0, size, number, 0)])

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._pieces[-1].end

    def fork(self) -> DiskView:
        """Return a disk with the same content, whose writes this one does not see."""
        return DiskView(self.files, self._pieces.copy())

    def write(self, start: int, length: int, file: int, offset: int) -> None:
        """Lay ``length`` bytes of a file over the disk from ``start`` on.

        Raises:
            ViewError: they do not fit.
        """
        end = start + length
        if start < 0 or end > self.size:
            raise ViewError(f"a write of {length} bytes at {start} is outside the disk of {self.size}")
        if not length:
            return
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1) - 1
        new = [Piece(start, end, file, offset)]
        if self._pieces[first].start < start:
            new.insert(0, self._pieces[first].part(0, start))
        if self._pieces[last].end > end:
            new.append(self._pieces[last].part(end, self.size))
        self._pieces[first : last + 1] = new
        self._starts[first : last + 1] = [piece.start for piece in new]

    def pieces(self, start: int, length: int) -> Iterator[Piece]:
        """Return what lies between two places, in order.

        Raises:
            ViewError: a part of it is outside the disk.
        """
        end = start + length
        if start < 0 or length < 0 or end > self.size:
            raise ViewError(f"{length} bytes at {start} are not on the disk of {self.size}")
        index = bisect_right(self._starts, start) - 1
        while start < end:
            piece = self._pieces[index].part(start, end)
            yield piece
            start, index = piece.end, index + 1

    def read(self, start: int, length: int) -> bytes:
        """Return the bytes at a place."""
        return b"".join(self.files.read(piece) for piece in self.pieces(start, length))

    def fingerprint(self, start: int, length: int) -> Fingerprint:
        """Return what determines the bytes at a place: equal fingerprints have equal content (not the reverse)."""
        return tuple((piece.file, piece.offset, piece.end - piece.start) for piece in self.pieces(start, length))

    def save(self, base: Path, target: Path) -> None:
        """Write the disk out as a sparse raw image.

        Args:
            base: the raw image that the view was opened on; taken over where nothing was written.
            target: the file to make.
        """
        run(["cp", "--sparse=always", "--reflink=auto", base, target], timeout=CONVERT_SECONDS)
        with target.open("r+b") as out:
            for piece in self._pieces:
                if piece.file == 1:
                    continue
                for start in range(piece.start, piece.end, COPY_BYTES):
                    part = piece.part(start, min(start + COPY_BYTES, piece.end))
                    os.pwrite(out.fileno(), self.files.read(part), part.start)


def open_disk(image: Path, files: Files | None = None) -> DiskView:
    """Return the view of a raw image; it becomes file number 1 of a new collection of files."""
    files = files or Files()
    return DiskView.over(files, files.add(image), image.stat().st_size)


def make_raw(image: Path, image_format: str, target: Path) -> Path:
    """Write an image of any format out as a sparse raw one, and return it."""
    run(["qemu-img", "convert", "-f", image_format, "-O", "raw", image, target], timeout=CONVERT_SECONDS)
    return target
