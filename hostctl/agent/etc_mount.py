"""Lays a generation over /etc in a running system: a thin edge over the kernel's mount calls.

A read-only overlay of the generation's ``etc`` over the image's is made detached and slid *beneath* the mount that is
on /etc (move_mount(2), MOVE_MOUNT_BENEATH, Linux 6.5), whose removal then shows it: no moment lies between in which
/etc is the image's alone. The image's own /etc stays reachable through a plain bind of the root file system.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from hostctl.errors import HostctlError

# <linux/mount.h>, <sys/mount.h>
FSOPEN_CLOEXEC = 1
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6
FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_BENEATH = 0x4, 0x200
MS_BIND = 4096
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
AT_FDCWD = -100


class EtcMountError(HostctlError):
    """The kernel refused to lay a generation over /etc."""

    id = "etc-mount-failed"


def _call(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), getattr(function, "__name__", "mount"))
    return result


def _overlay(libc: ctypes.CDLL, lower: str) -> int:
    """Return a descriptor of a detached read-only overlay."""
    context = _call(libc.fsopen, b"overlay", FSOPEN_CLOEXEC)
    try:
        _call(libc.fsconfig, context, FSCONFIG_SET_STRING, b"source", b"hostctl-etc", 0)
        _call(libc.fsconfig, context, FSCONFIG_SET_STRING, b"lowerdir", lower.encode(), 0)
        _call(libc.fsconfig, context, FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return _call(libc.fsmount, context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def lay_over(layer: Path, etc: Path, image_root: Path, *, root: Path = Path("/")) -> None:
    """Make ``etc`` show ``layer`` over the image's own files.

    Args:
        layer: the generation's ``etc`` folder.
        etc: where it is to appear, /etc.
        image_root: a folder at which ``root`` is bound without its mounts; bound now if it is not yet.
        root: the mount that holds the image's files.

    Raises:
        EtcMountError: the kernel refused; ``etc`` shows what it showed before.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    image_etc = image_root / etc.relative_to(root)
    try:
        image_root.mkdir(parents=True, exist_ok=True)
        if not image_root.is_mount():
            _call(libc.mount, os.fsencode(root), os.fsencode(image_root), None, MS_BIND, None)
            # else what is mounted on /etc would show in the bind as well, being its peer
            _call(libc.mount, None, os.fsencode(image_root), None, MS_PRIVATE, None)
        overlay = _overlay(libc, f"{layer.resolve()}:{image_etc}")
        try:
            covered = etc.is_mount()
            flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_BENEATH if covered else 0)
            _call(libc.move_mount, overlay, b"", AT_FDCWD, os.fsencode(etc), flags)
        finally:
            os.close(overlay)
        if covered:
            _call(libc.umount2, os.fsencode(etc), MNT_DETACH)
    except OSError as error:
        raise EtcMountError(f"cannot lay {layer} over {etc}", details=str(error)) from error


def uncover(etc: Path) -> None:
    """Take the generation's layer off ``etc``, so that the image's own files show; nothing if none lies there.

    Raises:
        EtcMountError: the kernel refused.
    """
    if not etc.is_mount():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _call(libc.umount2, os.fsencode(etc), MNT_DETACH)
    except OSError as error:
        raise EtcMountError(f"cannot uncover {etc}", details=str(error)) from error
