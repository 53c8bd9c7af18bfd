"""Whether what is about to be written has room, and the errors of the image store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from hostctl.errors import HostctlError

STEP = 8 << 20
"""Bytes that are written between two looks at the disk."""
MARGIN = 2 * STEP
"""Bytes that stay free: a step, and what is still on its way to the disk."""


class ImageStoreError(HostctlError):
    """The image store cannot do what is asked of it."""

    id = "image-store"


class NoRoomError(ImageStoreError):
    """An image does not fit into the store, although everything that nothing needs was removed."""

    id = "image-store-full"


def check_margin(what: str, folder: Path) -> None:
    """Look that the file system of ``folder`` is not about to be full.

    Raises:
        NoRoomError: less than :data:`MARGIN` is free; it says that ``what`` does not fit.
    """
    free = shutil.disk_usage(folder).free
    if free < MARGIN:
        hint = "free some of it: `df` and `hostctl images` tell what takes it"
        raise NoRoomError(f"the {what} does not fit on the disk", details=f"{folder}: {free} bytes are free", hint=hint)


def bounded(write: Callable[[bytes], object], folder: Path) -> Callable[[bytes], object]:
    """Return ``write`` that stops before the file system of ``folder`` is full.

    mkfs.erofs 1.8 does not look whether what it sets aside of a tar was written, so it must never come to that.

    Raises:
        NoRoomError: from what is returned; less than :data:`MARGIN` is free.
    """
    left = 0

    def put(data: bytes) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            check_margin("layer", folder)
            left = STEP
        write(data)

    return put
