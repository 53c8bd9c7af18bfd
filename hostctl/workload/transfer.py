"""Moves file trees as tar streams between a workload and the host, or a volume and a backup.

A module and a program of its own (``python3 -I -S transfer.py MODE PID PATH …``), which the agent starts for one
transfer. The program opens the workload's root folder, enters its user namespace and gives up everything that is more
than the workload's own root user may do; only then does it look at a file. It never enters the mount namespace, so
nothing that lies in the workload is ever loaded or run, and no name service is asked.

Every path is resolved by openat2(2): below the root for what the caller names, without any symbolic link for what an
archive names. A tree that is changed meanwhile gives a wrong file of the same workload at worst, never one of the
host. Files are opened without effect first (O_PATH) and read only if they are regular ones.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import resource
import stat
import sys
import tarfile
from collections.abc import Callable
from typing import BinaryIO

SYS_OPENAT2 = 437  # the same on all architectures
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 1, 2, 4, 8, 16  # linux/openat2.h, RESOLVE_…
AS_CALLER = IN_ROOT | NO_MAGICLINKS
AS_ARCHIVE = BENEATH | NO_SYMLINKS | NO_MAGICLINKS
LAST_ID = 65535  # of users and groups in a workload
MAX_DEPTH = 256  # folders in each other: each costs an open file
MAX_MEMORY = 256 << 20  # bytes that an archive's headers can make this program use
CHUNK = 1 << 20
XATTR = "SCHILY.xattr."  # pax keyword of star(1), which tar(1) and Docker use
KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
EXIT_REFUSED = 3
_KINDS = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
_KINDS[stat.S_IFIFO] = tarfile.FIFOTYPE


class TransferError(Exception):
    """A tree cannot be packed or unpacked; the text says why."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_LIBC = ctypes.CDLL(None, use_errno=True)


def open_in(folder: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below an open folder by openat2(2); see the flags' names above.

    Raises:
        OSError: as the kernel says.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path.lstrip("/") or ".") if resolve & BENEATH else os.fsencode(path or ".")
    for _ in range(100):  # EAGAIN: something was renamed while the kernel looked
        descriptor: int = _LIBC.syscall(
            SYS_OPENAT2, folder, ctypes.c_char_p(name), ctypes.byref(how), ctypes.sizeof(how)
        )
        if descriptor >= 0:
            return descriptor
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def split(path: str) -> tuple[str, str]:
    """Return folder and last name of a path; the name is empty for the root itself.

    Raises:
        TransferError: the last name is ``..``.
    """
    parts = _parts(path)
    if parts and parts[-1] == "..":
        raise TransferError(f"{path}: ends in ..")
    return ("/".join(parts[:-1]), parts[-1]) if parts else ("", "")


class Packer:
    """Writes trees to one tar stream, owners by number, names in order."""

    def __init__(self, out: BinaryIO, *, one_file_system: bool = False) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8")  # noqa: SIM115
        self._one = one_file_system
        self._links: dict[tuple[int, int], str] = {}
        self.files = 0
        self.skipped: list[str] = []

    def add(self, root: int, path: str, name: str, *, follow: bool = False) -> None:
        """Add the tree at ``path`` below ``root`` as ``name``; a link there is added as a link, unless it is followed.

        Raises:
            OSError: it is not there.
            TransferError: its folders are too deep in each other.
        """
        folder, last = split(path)
        parent = open_in(root, folder, os.O_PATH | os.O_DIRECTORY, AS_CALLER)
        try:
            device = os.fstat(parent).st_dev
            if follow and last:
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


class Unpacker:
    """Writes the entries of a tar stream below one folder, and nowhere else.

    Args:
        folder: the open folder.
        owner: user and group of everything; None keeps the archive's.
        rename: what the first name of every entry becomes; None keeps it.
        harmless: leave out what gives rights on a host: set-user-id, set-group-id and extended attributes.
    """

    def __init__(
        self,
        folder: int,
        *,
        owner: tuple[int, int] | None = None,
        rename: str | None = None,
        harmless: bool = False,
    ) -> None:
        self._folder, self._owner, self._rename, self._harmless = folder, owner, rename, harmless
        self._late: list[tuple[str, tarfile.TarInfo]] = []
        self.files = 0
        self.skipped: list[str] = []

    def unpack(self, source: BinaryIO) -> None:
        """Unpack a whole stream.

        Raises:
            TransferError: it is no archive, or one of its names or links leads out of the folder.
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
        parts = _parts(raw)
        if ".." in parts or "\0" in raw:
            raise TransferError(f"{raw!r} leads out of the folder")
        if self._rename is not None and parts:
            parts[0] = self._rename
        return "/".join(parts)

    def _entry(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        name = self._name(info.name)
        if not name:
            if info.isdir():
                self._late.append((".", info))
            return
        folder, last = split(name)
        parent = self._parent(folder)
        try:
            if info.isdir():
                self._make_folder(parent, last)
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
                self._make_folder(above, last)
            finally:
                os.close(above)
            return open_in(self._folder, path, os.O_PATH | os.O_DIRECTORY, AS_ARCHIVE)

    def _make_folder(self, parent: int, last: str) -> None:
        try:
            os.mkdir(last, 0o755, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                raise TransferError(f"{last}: is there and no folder") from None

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


def place(root: int, path: str) -> tuple[int, str | None]:
    """Return the folder that an archive for ``path`` goes into, open, and what its first name becomes there.

    As with cp(1): into an existing folder, else under the last name of the path into the folder above.

    Raises:
        OSError: there is no such folder.
        TransferError: the path has a slash at its end and is no folder.
    """
    try:
        return open_in(root, path, os.O_PATH | os.O_DIRECTORY, AS_CALLER), None
    except FileNotFoundError:
        if path.endswith(("/", "/.")):
            raise TransferError(f"{path}: no such folder") from None
    except NotADirectoryError:
        pass
    folder, last = split(path)
    return open_in(root, folder, os.O_PATH | os.O_DIRECTORY, AS_CALLER), last


def enter(pid: int) -> int:
    """Open the root folder of a process and become the root user of its user namespace, for good."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if sys.version_info < (3, 12):
        raise TransferError("this interpreter cannot enter a namespace")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    os.setns(namespace, os.CLONE_NEWUSER)
    os.close(namespace)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return root


def _pack(root: int, path: str, *, whole: bool, follow: bool) -> dict[str, object]:
    packer = Packer(os.fdopen(1, "wb", closefd=False), one_file_system=whole)
    contents = path.endswith("/.") or not _parts(path)
    packer.add(root, path, "." if contents else split(path)[1], follow=follow)
    packer.close()
    return {"files": packer.files, "skipped": packer.skipped[:100]}


def _unpack(root: int, path: str, *, keep_owner: bool) -> dict[str, object]:
    folder, rename = place(root, path)
    unpacker = Unpacker(folder, owner=None if keep_owner else (0, 0), rename=rename)
    unpacker.unpack(os.fdopen(0, "rb", closefd=False))
    return {"files": unpacker.files, "skipped": unpacker.skipped[:100]}


def main(mode: str, pid: int, path: str, *options: str) -> int:
    """Do one transfer; the result, or why there is none, goes to standard error as JSON.

    Args:
        mode: ``pack`` to standard output, ``unpack`` from standard input.
        pid: a process of the workload; 0 is none, and the root is the folder that this program runs in.
        path: below the root.
        options: ``whole`` packs one file system only, ``follow`` what a link at the path leads to below the root,
            ``keep-owner`` takes owners from the archive.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        root = enter(pid) if pid else os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if mode == "pack":
            result = _pack(root, path, whole="whole" in options, follow="follow" in options)
        else:
            result = _unpack(root, path, keep_owner="keep-owner" in options)
    except OSError as error:
        result = {"refused": f"{error.filename or path}: {error.strerror or error}"}
    except (TransferError, MemoryError) as error:
        result = {"refused": str(error) or "out of memory"}
    print(json.dumps(result), file=sys.stderr, flush=True)
    return EXIT_REFUSED if "refused" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *sys.argv[4:]))
