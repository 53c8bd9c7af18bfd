"""Mounts, made as descriptors first and attached when they are whole: a thin edge over the kernel's mount calls.

Python has no functions for these; glibc has since 2.36. An option is one string of at most 255 bytes, so each layer of
an overlay is an option of its own.
Sources: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2), umount2(2),
unshare(2), setns(2);
Documentation/filesystems/overlayfs.rst of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hostctl.libc import call, library

# <linux/mount.h>, <sys/mount.h>, <fcntl.h>
FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
MOUNT_ATTR_IDMAP = 0x100000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_BENEATH = 0x4, 0x200
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
CLONE_NEWNS = 0x20000  # <linux/sched.h>
SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
CHUNK = 256  # copies of mounts that are held at once, each by a descriptor


class _Attributes(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@contextmanager
def filesystem(kind: str, options: Iterable[tuple[str, str | None]], attributes: int) -> Iterator[int]:
    """Give a descriptor of a file system that is mounted nowhere yet.

    Args:
        kind: its type.
        options: keys with values, or None for a key that has none, in the order in which the kernel is told.
        attributes: ``MOUNT_ATTR_*``.

    Raises:
        OSError: the kernel refused.
    """
    libc = library()
    context = call(libc.fsopen, kind.encode(), FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            call(libc.fsconfig, context, command, key.encode(), None if value is None else os.fsencode(value), 0)
        call(libc.fsconfig, context, FSCONFIG_CMD_CREATE, None, None, 0)
        mounted = call(libc.fsmount, context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        yield mounted
    finally:
        os.close(mounted)


def attach(mounted: int, where: Path, flags: int = 0) -> None:
    """Attach what a descriptor holds at a path.

    Raises:
        OSError: the kernel refused.
    """
    call(library().move_mount, mounted, b"", AT_FDCWD, os.fsencode(where), MOVE_MOUNT_F_EMPTY_PATH | flags)


def erofs(file: Path, where: Path) -> None:
    """Mount an EROFS image as it lies in a file, read-only.

    Raises:
        OSError: the kernel refused.
    """
    with filesystem("erofs", [("source", str(file)), ("ro", None)], SAFE | MOUNT_ATTR_RDONLY) as mounted:
        attach(mounted, where)


def overlay(lower: Sequence[Path], where: Path, *, upper: Path | None = None, work: Path | None = None) -> None:
    """Mount an overlay; without an upper folder it is read-only.

    Args:
        lower: its layers, the highest first.
        where: the mount point.
        upper: what takes changes.
        work: an empty folder on the same file system as ``upper``.

    Raises:
        OSError: the kernel refused.
    """
    options: list[tuple[str, str | None]] = [("source", "overlay"), *(("lowerdir+", str(path)) for path in lower)]
    if upper is not None and work is not None:
        options += [("upperdir", str(upper)), ("workdir", str(work))]
    with filesystem("overlay", options, SAFE | (0 if upper else MOUNT_ATTR_RDONLY)) as mounted:
        attach(mounted, where)


def mapped(source: Path, where: Path, users: int) -> None:
    """Show what is mounted at ``source`` once more, with the ids of a user namespace.

    Args:
        source: a mount point.
        where: another one.
        users: descriptor of a user namespace: its ids 0, 1 and so on are shown as what they are outside of it.

    Raises:
        OSError: the kernel refused.
    """
    tree = copy(source)
    try:
        wanted = _Attributes(attr_set=MOUNT_ATTR_IDMAP, propagation=MS_PRIVATE, userns_fd=users)
        size = ctypes.c_size_t(ctypes.sizeof(wanted))
        call(library().mount_setattr, tree, b"", AT_EMPTY_PATH, ctypes.byref(wanted), size)
        attach(tree, where)
    finally:
        os.close(tree)


def cover(source: Path, where: Path) -> None:
    """Show a folder at another one, read-only.

    Raises:
        OSError: the kernel refused.
    """
    tree = copy(source)
    try:
        wanted = _Attributes(attr_set=SAFE | MOUNT_ATTR_RDONLY, propagation=MS_PRIVATE)
        size = ctypes.c_size_t(ctypes.sizeof(wanted))
        call(library().mount_setattr, tree, b"", AT_EMPTY_PATH, ctypes.byref(wanted), size)
        attach(tree, where)
    finally:
        os.close(tree)


def uncover(where: Path) -> None:
    """Take off all that :func:`cover` has put there, if anything.

    That is of the same file system as what it covers, so nothing but the attempt tells whether it is there.

    Raises:
        OSError: the kernel refused.
    """
    try:
        while True:
            call(library().umount2, os.fsencode(where), MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def copy(source: Path) -> int:
    """Return a descriptor of what is mounted at a path once more, attached nowhere yet. To be closed.

    Args:
        source: a mount point, a folder in one, or a file of a namespace below /proc.

    Raises:
        OSError: the kernel refused.
    """
    return call(library().open_tree, AT_FDCWD, os.fsencode(source), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)


@contextmanager
def aside() -> Iterator[list[Path]]:
    """Mount where nobody sees it, then show it at once.

    The block is in a mount namespace of its own, which begins as a copy of the caller's. After it, what is mounted at
    the paths that it has put into the list is attached at the same paths of the caller's namespace, in their order;
    nothing else, and nothing at all if the block raises. systemd reads the list of all mounts whenever it has changed,
    so many that come one after the other occupy it for as long as they come.

    The process must have one thread; its working directory is the root afterwards.

    Raises:
        OSError: the kernel refused.
    """
    libc, points = library(), list[Path]()
    with _mount_namespace() as callers:
        call(libc.unshare, CLONE_NEWNS)
        try:
            call(libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
            yield points
            with _mount_namespace() as own:
                for first in range(0, len(points), CHUNK):
                    call(libc.setns, own, CLONE_NEWNS)
                    _show(points[first : first + CHUNK], callers)
        finally:
            call(libc.setns, callers, CLONE_NEWNS)


@contextmanager
def _mount_namespace() -> Iterator[int]:
    descriptor = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _show(points: Sequence[Path], namespace: int) -> None:
    """Go to a mount namespace and attach there what is mounted at some paths here."""
    with ExitStack() as held:
        copies = [(copy(point), point) for point in points]
        for descriptor, _ in copies:
            held.callback(os.close, descriptor)
        call(library().setns, namespace, CLONE_NEWNS)
        for descriptor, point in copies:
            attach(descriptor, point)


def unmount(where: Path) -> None:
    """Take off all that is mounted at a path; who uses it keeps it. Nothing if there is nothing.

    Raises:
        OSError: the kernel refused.
    """
    libc = library()
    while os.path.ismount(where):
        call(libc.umount2, os.fsencode(where), MNT_DETACH | UMOUNT_NOFOLLOW)
