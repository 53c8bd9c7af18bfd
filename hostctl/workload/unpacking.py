"""Writes what a tar stream holds below a folder, and nowhere else.

Loaded by programs that run without site packages, so it needs the standard library and its neighbours alone.
"""

from __future__ import annotations

import functools
import os
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from hostctl.workload.beneath import AS_ARCHIVE, AS_CALLER, TransferError, names, open_in, split
from hostctl.workload.packing import KEPT_XATTRS, XATTR

LAST_ID = 65535  # of users and groups in a workload
CHUNK = 1 << 20


class Unpacker:
    """Writes the entries of a tar stream below one folder, and nowhere else.

    Args:
        folder: the open folder.
        owner: user and group of everything; None keeps the archive's.
        rename: what the first name of every entry becomes, which must be one for all of them; None keeps it.
        harmless: leave out what gives rights on a host: set-user-id, set-group-id and extended attributes.
        itself: give the folder what the archive says of it as well, its owner, mode and times.
    """

    def __init__(
        self,
        folder: int,
        *,
        owner: tuple[int, int] | None = None,
        rename: str | None = None,
        harmless: bool = False,
        itself: bool = False,
    ) -> None:
        self._folder, self._owner, self._rename, self._harmless = folder, owner, rename, harmless
        self._itself, self._first = itself, ""
        self._late: list[tuple[str, tarfile.TarInfo]] = []
        self.files = 0
        self.skipped: list[str] = []

    def unpack(self, source: BinaryIO) -> None:
        """Unpack a whole stream.

        Raises:
            TransferError: it is no archive, a name or link in it leads out of the folder, or several would become one.
            OSError: a file cannot be written.
        """
        try:
            with tarfile.open(fileobj=source, mode="r|*", encoding="utf-8", errors="surrogateescape") as archive:
                for info in archive:
                    self._entry(archive, info)
                    archive.members = []  # type: ignore[attr-defined]  # a stream is never gone back in; its headers would pile up
        except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
            raise TransferError(f"this is no tar archive that can be read: {error}") from error
        except MemoryError as error:
            raise TransferError("the archive's headers are larger than they may be") from error
        for name, info in reversed(self._late):  # times of folders change with what is put into them
            self._attributes(name, info)

    def _name(self, raw: str) -> str:
        parts = names(raw)
        if ".." in parts or "\0" in raw:
            raise TransferError(f"{raw!r} leads out of the folder")
        if self._rename is not None:
            if not parts or parts[0] != (self._first or parts[0]):  # or the last of several would be all that is left
                raise TransferError(f"{self._rename}: no folder, and the archive is not of one name")
            self._first, parts[0] = parts[0], self._rename
        return "/".join(parts)

    def _entry(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        name = self._name(info.name)
        if not name:
            if not info.isdir():
                self.skipped.append(".")
            elif self._itself:
                self._late.append((".", info))
            return
        folder, last = split(name)
        parent = self._parent(folder)
        try:
            if info.isdir():
                make_folder(parent, last)
                self._late.append((name, info))
            elif info.isreg():
                _remove(parent, last)
                self._make_file(parent, last, archive, info)
            elif info.issym():
                _remove(parent, last)
                os.symlink(info.linkname, last, dir_fd=parent)
                self._chown(parent, last, info)
            elif info.islnk():
                self._make_link(parent, last, info)
            elif info.isfifo():
                _remove(parent, last)
                os.mkfifo(last, 0o600, dir_fd=parent)
                self._attributes(name, info)
            else:
                self.skipped.append(name)
                return
            self.files += 1
        finally:
            os.close(parent)

    def _parent(self, path: str) -> int:
        try:
            return open_in(self._folder, path, os.O_PATH | os.O_DIRECTORY, AS_ARCHIVE)
        except FileNotFoundError:
            folder, last = split(path)
            above = self._parent(folder)
            try:
                make_folder(above, last)
            finally:
                os.close(above)
            return open_in(self._folder, path, os.O_PATH | os.O_DIRECTORY, AS_ARCHIVE)

    def _make_file(self, parent: int, last: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(last, flags, 0o600, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as file:
            source = archive.extractfile(info)
            while source is not None and (data := source.read(CHUNK)):
                file.write(data)
            file.flush()
            self._attributes_of(descriptor, info)

    def _make_link(self, parent: int, last: str, info: tarfile.TarInfo) -> None:
        folder, first = split(self._name(info.linkname))
        source = open_in(self._folder, folder, os.O_PATH | os.O_DIRECTORY, AS_ARCHIVE)
        try:
            if (folder, first) != split(self._name(info.name)):
                _remove(parent, last)
                os.link(first, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _attributes(self, name: str, info: tarfile.TarInfo) -> None:
        descriptor = open_in(self._folder, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, AS_ARCHIVE)
        try:
            self._attributes_of(descriptor, info)
        finally:
            os.close(descriptor)

    def _attributes_of(self, descriptor: int, info: tarfile.TarInfo) -> None:
        uid, gid = self._owner_of(info)
        _ignoring(PermissionError, lambda: os.fchown(descriptor, uid, gid))
        os.fchmod(descriptor, info.mode & (0o777 if self._harmless else 0o7777))
        for key, value in () if self._harmless else info.pax_headers.items():
            name = key.removeprefix(XATTR)
            if key.startswith(XATTR) and name.startswith(KEPT_XATTRS):
                data = value.encode("utf-8", "surrogateescape")
                _ignoring(OSError, functools.partial(os.setxattr, descriptor, name, data))
        os.utime(descriptor, (info.mtime, info.mtime))

    def _owner_of(self, info: tarfile.TarInfo) -> tuple[int, int]:
        if self._owner is None and not (0 <= info.uid <= LAST_ID and 0 <= info.gid <= LAST_ID):
            raise TransferError(f"{info.name}: belongs to {info.uid}:{info.gid}, and workloads have 0 to {LAST_ID}")
        return self._owner or (info.uid, info.gid)

    def _chown(self, parent: int, last: str, info: tarfile.TarInfo) -> None:
        uid, gid = self._owner_of(info)
        _ignoring(PermissionError, lambda: os.chown(last, uid, gid, dir_fd=parent, follow_symlinks=False))


def _ignoring(kind: type[OSError], deed: Callable[[], None]) -> None:
    """Do what only some users and file systems can do."""
    try:
        deed()
    except kind:
        return


def _remove(parent: int, last: str) -> None:
    """Make room for an entry: whatever is there goes, but a folder."""
    try:
        os.unlink(last, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise TransferError(f"{last}: is there and a folder") from None


def make_folder(parent: int, last: str) -> bool:
    """Make a folder, unless there is one; return whether it was made.

    Raises:
        TransferError: something else is there.
    """
    try:
        os.mkdir(last, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
            raise TransferError(f"{last}: is there and no folder") from None
        return False
    return True


class Destination(NamedTuple):
    """Where an archive goes."""

    folder: int
    """Open."""
    rename: str | None = None
    """What the first name of every entry becomes there; None keeps it."""
    made: bool = False
    """Whether the folder was made for the archive, and so is to be as that says."""


def place(root: int, path: str, *, contents: bool = False) -> Destination:
    """Return where an archive for ``path`` goes.

    As with cp(1): into an existing folder, else under the last name of the path into the folder above.

    Args:
        root: the open folder that the path is below.
        path: as the caller names it.
        contents: the archive is of what is in a folder, so the path is made one if nothing is there.

    Raises:
        OSError: there is no such folder.
        TransferError: the path is no folder and must be one, for contents or by a slash at its end.
    """
    try:
        return Destination(open_in(root, path, os.O_PATH | os.O_DIRECTORY, AS_CALLER))
    except (FileNotFoundError, NotADirectoryError):
        if path.endswith(("/", "/.")) and not contents:
            raise TransferError(f"{path}: no such folder") from None
    folder, last = split(path)
    above = open_in(root, folder, os.O_PATH | os.O_DIRECTORY, AS_CALLER)
    if not contents:
        return Destination(above, rename=last)
    try:
        made = make_folder(above, last)
        return Destination(open_in(above, last, os.O_PATH | os.O_DIRECTORY, AS_ARCHIVE), made=made)
    finally:
        os.close(above)
