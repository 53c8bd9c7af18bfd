"""What a workload has written, as the layer of an image: its overlay's upper folder as a tar stream.

The workload may write meanwhile, so everything is looked at by descriptors, no symbolic link is followed, and a file is
opened without effect first (O_PATH) and read only if it is a regular one. The same files give the same bytes: names in
order, owners as the workload's own numbers, no extended attributes, which no image of ours keeps.
Formats: Documentation/filesystems/overlayfs.rst of Linux; https://github.com/opencontainers/image-spec v1.1, layer.md.
"""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from hostctl.errors import HostctlError
from hostctl.image.tarstream import DEPTH, ENTRIES, ID_LIMIT, padded

CHUNK = 1 << 20
WHITEOUT = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
OPAQUE = "trusted.overlay.opaque"
UNREADABLE = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
"""What makes an upper layer more than it shows; hosts do not mount overlays that way."""
SKIPPED = 100  # names of what was left out that are kept


class UpperError(HostctlError):
    """What a workload has written cannot be a layer."""

    id = "commit-failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """The layer that was written: ``newest`` is the time of its latest change, in seconds since 1970."""

    diff_id: str
    size: int
    entries: int
    newest: int
    skipped: tuple[str, ...]


class _Writer:
    """Writes a tar stream of at most ``limit`` bytes."""

    def __init__(self, out: BinaryIO, first_id: int, limit: int) -> None:
        self._out, self._first, self._limit = out, first_id, limit
        self._digest = sha256()
        self._links: dict[tuple[int, int], str] = {}
        self._size = self._entries = self._seen = self._newest = 0
        self._skipped: list[str] = []

    def folder(self, folder: int, path: str, depth: int) -> None:
        """Add what is in an open folder."""
        if depth >= DEPTH:
            raise UpperError(f"{path}: more than {DEPTH} folders in each other")
        for name in self._names(folder):
            inner = f"{path}/{name}" if path else name
            try:
                self._entry(folder, name, inner, depth)
            except FileNotFoundError:  # removed meanwhile
                self._skip(inner)

    def _names(self, folder: int) -> list[str]:
        """Return the names in a folder in order; more than a layer has are not even kept in memory."""
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                self._seen += 1
                self._count(self._seen)
        return sorted(names)

    def finish(self) -> Packed:
        """Write the end of the archive."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        return Packed(
            diff_id=f"sha256:{self._digest.hexdigest()}",
            size=self._size,
            entries=self._entries,
            newest=self._newest,
            skipped=tuple(self._skipped),
        )

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        self._require(0)
        self._digest.update(data)
        self._out.write(data)

    def _require(self, more: int) -> None:
        if self._size + more > self._limit:
            raise UpperError(
                f"what was written has more than the {self._limit} bytes that there is room for",
                hint="remove what is not to be kept, or keep it in a volume",
            )

    def _count(self, entries: int) -> None:
        if entries > ENTRIES:
            raise UpperError(f"what was written has more than {ENTRIES} entries")

    def _skip(self, path: str) -> None:
        if len(self._skipped) < SKIPPED:
            self._skipped.append(path)

    def _header(self, info: tarfile.TarInfo, found: os.stat_result | None = None) -> None:
        self._entries += 1
        self._count(self._entries)
        if found is not None:
            info.mode, info.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
            info.uid, info.gid = found.st_uid - self._first, found.st_gid - self._first
            if not (0 <= info.uid < ID_LIMIT and 0 <= info.gid < ID_LIMIT):
                raise UpperError(f"{info.name}: belongs to {found.st_uid}:{found.st_gid}, who is not the workload's")
            self._newest = max(self._newest, info.mtime)
        self._put(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _entry(self, parent: int, name: str, path: str, depth: int) -> None:
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            found = os.fstat(opened)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                self._mark(f"{path.removesuffix(name)}{WHITEOUT}{name}")
            elif name.startswith(WHITEOUT):  # in a layer it would mean that something is deleted
                self._skip(path)
            elif stat.S_ISLNK(found.st_mode):
                info = tarfile.TarInfo(path)
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=opened)
                self._header(info, found)
            elif stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
                self._open(opened, path, depth)
            else:
                self._skip(path)
        finally:
            os.close(opened)

    def _mark(self, path: str) -> None:
        self._header(tarfile.TarInfo(path))

    def _open(self, opened: int, path: str, depth: int) -> None:
        real = os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            found, names = os.fstat(real), os.listxattr(real)
            if not {*UNREADABLE}.isdisjoint(names):
                raise UpperError(f"{path}: the overlay keeps it in a way that is not known here")
            info = tarfile.TarInfo(path)
            if stat.S_ISDIR(found.st_mode):
                info.type = tarfile.DIRTYPE
                self._header(info, found)
                if OPAQUE in names and os.getxattr(real, OPAQUE) == b"y":
                    self._mark(f"{path}/{OPAQUE_MARK}")
                self.folder(real, path, depth + 1)
                return
            first = self._links.setdefault((found.st_dev, found.st_ino), path) if found.st_nlink > 1 else path
            if first != path:
                info.type, info.linkname = tarfile.LNKTYPE, first
                self._header(info, found)
                return
            info.size = found.st_size
            self._require(padded(info.size))
            self._header(info, found)
            self._content(real, info.size)
        finally:
            os.close(real)

    def _content(self, real: int, size: int) -> None:
        """Write a file as if it had the size that its header says, whatever happens to it meanwhile."""
        left = size
        while left:
            data = os.read(real, min(left, CHUNK)) or bytes(min(left, CHUNK))
            self._put(data)
            left -= len(data)
        self._put(bytes(padded(size) - size))


def pack(upper: int, first_id: int, out: BinaryIO, *, limit: int) -> Packed:
    """Write the layer of an upper folder.

    Args:
        upper: the open folder.
        first_id: the user id on the host of the workload's user 0.
        out: takes the stream.
        limit: bytes that it may have.

    Raises:
        UpperError: it has more, or cannot be a layer.
        OSError: a file cannot be read, or the layer not be written.
    """
    writer = _Writer(out, first_id, limit)
    writer.folder(upper, "", 0)
    return writer.finish()
