"""The C library, for what the kernel can do and Python has no function for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache


@cache
def library() -> ctypes.CDLL:
    """Return the C library, whose errors are kept for :func:`call`."""
    return ctypes.CDLL(None, use_errno=True)


def call(function: Callable[..., int], *arguments: object) -> int:
    """Return what a function of the C library does.

    Raises:
        OSError: it failed.
    """
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), getattr(function, "__name__", "system call"))
    return result
