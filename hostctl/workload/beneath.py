"""Opens paths below a folder by openat2(2), so that nothing that somebody puts in the way leads out of it.

Loaded by programs that run without site packages, so it needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import os

SYS_OPENAT2 = 437  # the same on all architectures
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 1, 2, 4, 8, 16  # linux/openat2.h, RESOLVE_…
AS_CALLER = IN_ROOT | NO_MAGICLINKS
AS_ARCHIVE = BENEATH | NO_SYMLINKS | NO_MAGICLINKS
MAX_DEPTH = 256  # folders in each other: each costs an open file


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


def names(path: str) -> list[str]:
    """Return the names that a path is made of."""
    return [part for part in path.split("/") if part not in ("", ".")]


def split(path: str) -> tuple[str, str]:
    """Return folder and last name of a path; the name is empty for the root itself.

    Raises:
        TransferError: the last name is ``..``.
    """
    parts = names(path)
    if parts and parts[-1] == "..":
        raise TransferError(f"{path}: ends in ..")
    return ("/".join(parts[:-1]), parts[-1]) if parts else ("", "")


def means_contents(path: str) -> bool:
    """Tell whether a source means what is in a folder, without the folder: it ends in ``/.``, or is the root."""
    return path.endswith("/.") or not names(path)
