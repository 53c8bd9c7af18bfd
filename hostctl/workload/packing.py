"""Writes file trees as tar streams. Files are opened without effect first (O_PATH), and read only if they are regular
ones.

Loaded by programs that run without site packages, so it needs the standard library and its neighbours alone.
"""

from __future__ import annotations

import os
import stat
import tarfile
from typing import BinaryIO

from hostctl.workload.beneath import AS_CALLER, MAX_DEPTH, TransferError, open_in, split

XATTR = "SCHILY.xattr."  # pax keyword of star(1), which tar(1) and Docker use
KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_KINDS = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
_KINDS[stat.S_IFIFO] = tarfile.FIFOTYPE


class Packer:
    """Writes trees to one tar stream, owners by number, names in order."""

    def __init__(self, out: BinaryIO, *, one_file_system: bool = False) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8")  # noqa: SIM115
        self._one = one_file_system
        self._links: dict[tuple[int, int], str] = {}
        self.files = 0
        self.skipped: list[str] = []

    def add(self, root: int, path: str, name: str, *, follow: bool = False) -> None:
        """Add the tree at ``path`` below ``root`` as ``name``.

        A link there is added as a link, unless it is followed, as it is wherever the path ends in ``/`` or ``/.``.

        Raises:
            OSError: it is not there, or no folder although the path ends so.
            TransferError: its folders are too deep in each other.
        """
        folder, last = split(path)
        parent = open_in(root, folder, os.O_PATH | os.O_DIRECTORY, AS_CALLER)
        try:
            device = os.fstat(parent).st_dev
            if last and (follow or path.endswith(("/", "/."))):
                self._opened(open_in(root, path, os.O_PATH, AS_CALLER), name, device, 0)
            else:
                self._entry(parent, last or ".", name, device, 0)
        finally:
            os.close(parent)

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    def _entry(self, parent: int, last: str, name: str, device: int, depth: int) -> None:
        self._opened(os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), name, device, depth)

    def _opened(self, opened: int, name: str, device: int, depth: int) -> None:
        """Add what is open, and close it."""
        try:
            found = os.fstat(opened)
            kind = _KINDS.get(stat.S_IFMT(found.st_mode))
            if kind is None:
                self.skipped.append(name)
                return
            info = _header(name, found, kind)
            if kind == tarfile.SYMTYPE:
                info.linkname = os.readlink("", dir_fd=opened)
            if kind == tarfile.REGTYPE and found.st_nlink > 1:
                first = self._links.setdefault((found.st_dev, found.st_ino), name)
                if first != name:
                    info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
            self._write(info, opened, found, device, depth)
        finally:
            os.close(opened)

    def _write(self, info: tarfile.TarInfo, opened: int, found: os.stat_result, device: int, depth: int) -> None:
        self.files += 1
        if info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            self._tar.addfile(info)
            return
        real = os.open(f"/proc/self/fd/{opened}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            info.pax_headers = _xattrs(real)
            if info.type == tarfile.REGTYPE:
                with os.fdopen(os.dup(real), "rb", buffering=0) as source:
                    self._tar.addfile(info, _Exactly(source, info.size))
                return
            self._tar.addfile(info)
            if self._one and found.st_dev != device:
                return
            if depth >= MAX_DEPTH:
                raise TransferError(f"{info.name}: more than {MAX_DEPTH} folders in each other")
            for name in sorted(os.listdir(real)):  # noqa: PTH208 - by descriptor
                try:
                    self._entry(real, name, f"{info.name}/{name}", device, depth + 1)
                except FileNotFoundError:  # removed meanwhile
                    self.skipped.append(f"{info.name}/{name}")
        finally:
            os.close(real)


class _Exactly:
    """Reads a file as if it had exactly the size that its header says, whatever happens to it meanwhile."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes, fewer only at the end; what the file has lost is zeros."""
        wanted = self._left if size < 0 else min(size, self._left)
        made = bytearray()
        while len(made) < wanted and (data := self._source.read(wanted - len(made))):
            made += data
        made += bytes(wanted - len(made))
        self._left -= wanted
        return bytes(made)


def _header(name: str, found: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
    info.mtime = int(found.st_mtime)
    info.size = found.st_size if kind == tarfile.REGTYPE else 0
    return info


def _xattrs(descriptor: int) -> dict[str, str]:
    made = {}
    try:
        for name in os.listxattr(descriptor):
            if name.startswith(KEPT_XATTRS):
                made[XATTR + name] = os.getxattr(descriptor, name).decode("utf-8", "surrogateescape")
    except OSError:  # a file system without them
        return {}
    return made
