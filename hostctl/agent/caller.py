"""Whoever made a call, as long as they are there: what works for them can wait for their going."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hostctl.errors import HostctlError


class CallerGoneError(HostctlError):
    """Nobody waits any more for what was asked for."""

    id = "caller-gone"


class Caller:
    """One caller during one call. The bus tells that they have gone; a handler's thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[int] = set()
        self._gone = False

    @property
    def has_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._gone

    def require(self) -> None:
        """Do nothing while somebody waits for the answer.

        Raises:
            CallerGoneError: nobody does.
        """
        if self._gone:
            raise CallerGoneError("whoever asked for it has gone")

    def leave(self) -> None:
        """Tell everybody who waits for it that the caller has gone."""
        with self._lock:
            self._gone = True
            for descriptor in self._watched:
                os.eventfd_write(descriptor, 1)

    @contextmanager
    def watch(self) -> Iterator[int]:
        """Give a descriptor that can be read once the caller has gone."""
        with self._lock:
            descriptor = os.eventfd(int(self._gone), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._watched.add(descriptor)
        try:
            yield descriptor
        finally:
            with self._lock:
                self._watched.discard(descriptor)
                os.close(descriptor)
