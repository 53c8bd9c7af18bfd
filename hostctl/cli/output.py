"""Where a verb writes what it makes: a file that is whole or as it was, or a device or pipe, written as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hostctl.durable import replacing
from hostctl.errors import HostctlError


class OutputError(HostctlError):
    """The place that was named for the output cannot be written."""

    id = "output"


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that becomes ``path`` when all went well.

    A link is followed; a device or a pipe is neither replaced nor removed. A file is its maker's alone (0600, as what
    Docker writes), because it holds what workloads hold.

    Args:
        path: what the user named.

    Raises:
        OutputError: ``path`` cannot be written, or the disk is full.
    """
    try:
        if _special(path):
            with path.open("wb") as file:
                yield file
        else:
            with replacing(Path(os.path.realpath(path)), mode=0o600) as file:
                yield file
    except OSError as error:
        why = error.strerror or error
        raise OutputError(
            f"{path} cannot be written: {why}", hint="name a place that has room and that you may write"
        ) from error


def _special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
