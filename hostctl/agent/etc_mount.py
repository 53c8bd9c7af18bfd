"""Lays a generation over /etc in a running system: a thin edge over the kernel's mount calls.

A read-only overlay of the generation's ``etc`` over the image's is made detached and slid *beneath* the mount that is
on /etc (move_mount(2), MOVE_MOUNT_BENEATH, Linux 6.5), whose removal then shows it: no moment lies between in which
/etc is the image's alone. The image's own /etc stays reachable through a plain bind of the root file system.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostctl import mounting
from hostctl.errors import HostctlError
from hostctl.libc import call, library
from hostctl.mounting import MNT_DETACH, MOUNT_ATTR_RDONLY, MOVE_MOUNT_BENEATH, MS_BIND, MS_PRIVATE, SAFE


class EtcMountError(HostctlError):
    """The kernel refused to lay a generation over /etc."""

    id = "etc-mount-failed"


def lay_over(layer: Path, etc: Path, image_root: Path, *, root: Path = Path("/"), over: Path | None = None) -> None:
    """Make ``etc`` show ``layer`` over the image's own files.

    Args:
        layer: the generation's ``etc`` folder.
        etc: where it is to appear, /etc.
        image_root: a folder at which ``root`` is bound without its mounts; bound now if it is not yet.
        root: the mount that holds the image's files.
        over: a folder with files that are shown in place of the layer's.

    Raises:
        EtcMountError: the kernel refused; ``etc`` shows what it showed before.
    """
    libc = library()
    image_etc = image_root / etc.relative_to(root)
    try:
        image_root.mkdir(parents=True, exist_ok=True)
        if not image_root.is_mount():
            call(libc.mount, os.fsencode(root), os.fsencode(image_root), None, MS_BIND, None)
            # else what is mounted on /etc would show in the bind as well, being its peer
            call(libc.mount, None, os.fsencode(image_root), None, MS_PRIVATE, None)
        lower = [*([over] if over else []), layer.resolve(), image_etc]
        options = [("source", "hostctl-etc"), ("lowerdir", ":".join(map(str, lower)))]
        with mounting.filesystem("overlay", options, SAFE | MOUNT_ATTR_RDONLY) as overlay:
            covered = _mounts(etc)
            for _ in range(covered - 1):  # whoever laid the last one was killed between the next two steps
                call(libc.umount2, os.fsencode(etc), MNT_DETACH)
            mounting.attach(overlay, etc, MOVE_MOUNT_BENEATH if covered else 0)
        if covered:
            call(libc.umount2, os.fsencode(etc), MNT_DETACH)
    except OSError as error:
        raise EtcMountError(f"cannot lay {layer} over {etc}", details=str(error)) from error


def uncover(etc: Path) -> None:
    """Take the generation's layer off ``etc``, so that the image's own files show; nothing if none lies there.

    Raises:
        EtcMountError: the kernel refused.
    """
    libc = library()
    try:
        for _ in range(_mounts(etc)):
            call(libc.umount2, os.fsencode(etc), MNT_DETACH)
    except OSError as error:
        raise EtcMountError(f"cannot uncover {etc}", details=str(error)) from error


def _mounts(etc: Path) -> int:
    """Return how many mounts lie over each other at a path (proc_pid_mountinfo(5))."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return sum(line.split()[4] == os.fsencode(etc) for line in lines)
