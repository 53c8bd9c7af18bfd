"""Ends an update in order when the process is asked to end: by a key, by systemd, by a closed terminal, by a shutdown.

The signal becomes an exception that no handler of ordinary errors takes for one of its own, so that every file is
closed and the journal says what happened. What was written so far is found again by the next run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hostctl.errors import EXIT_BUSY, HostctlError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UpdateStoppedError(HostctlError):
    """Somebody ended the update."""

    id = "update-stopped"
    exit_code = EXIT_BUSY


class Stop(BaseException):
    """A signal arrived; the text is its name."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)  # one is enough, ending in order must not be interrupted
    raise Stop(signal.Signals(number).name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn signals into an error while the body runs. Only for the main thread.

    Raises:
        UpdateStoppedError: a signal came.
    """
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    except Stop as stop:
        raise UpdateStoppedError(
            f"stopped by {stop}", hint="run it again: it goes on from what is on the disk"
        ) from stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
