"""Who changes the machine does it alone: one write lock for all, and what to do when somebody else came before."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.layout import HostLayout

Result = TypeVar("Result")
LOCK_SECONDS = 0.2  # between two looks whether the lock is free
TRIES = 5
_PAUSE = threading.Event()  # never set


class BusyError(HostctlError):
    """Somebody else is changing this machine."""

    id = "busy"
    exit_code = EXIT_BUSY


class OvertakenError(BusyError):
    """What the text was made from is not in force any more."""


@contextmanager
def lock(
    layout: HostLayout, *, wait: float = 0.0, notify: Callable[[str], object] = lambda text: None
) -> Iterator[None]:
    """Hold the machine's one write lock.

    Args:
        layout: the machine.
        wait: seconds that somebody else may hold it before that.
        notify: told when it is waited for.

    Raises:
        BusyError: somebody else holds it.
    """
    layout.state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end, told = time.monotonic() + wait, False
        while not _taken(descriptor):
            if time.monotonic() >= end:
                raise BusyError("another change of this machine is under way", hint="try again when it has ended")
            if not told:
                notify("waiting for another change of this machine")
            told = True
            _PAUSE.wait(LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def anew(deed: Callable[[], Result], *, seconds: float = 0.0) -> Result:
    """Do what starts from the declaration in force, and again if another came between.

    Args:
        deed: does it.
        seconds: in which that may happen any number of times, and not just a few.

    Raises:
        OvertakenError: that happened each time.
    """
    end, tries = time.monotonic() + seconds, 0
    while True:
        tries += 1
        try:
            return deed()
        except OvertakenError:
            if tries >= TRIES and time.monotonic() >= end:
                raise
