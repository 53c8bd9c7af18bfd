"""The outside end of a guest's stage port: it learns where an update stands, and says when it may go on.

The guest writes `STAGE EDGE` and waits up to a minute for one byte, see `hostctl/update/stage_port.py`. Edges are
answered at once, unless they are held; so a machine with the port behaves like one without until somebody holds.
While an edge is held the updater stands still, and whoever holds it may cut the power or copy the disk.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hostctl.errors import HostctlError

NAME = "org.hostctl.stages"
ANSWER = b"\n"


class StageTimeoutError(HostctlError):
    """An update did not reach the edge of a stage."""

    id = "stage-timeout"


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge of a stage, as the guest names it."""

    stage: str
    edge: str

    def __str__(self) -> str:
        return f"{self.stage} {self.edge}"


class StagePort:
    """Answers a guest at the edges of its update's stages.

    Args:
        connection: the connected socket of the port.

    `watcher`, when set, is called with every edge before it is answered, in the port's own thread.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.watcher: Callable[[Edge], object] | None = None
        self._socket = connection
        self._passed: list[Edge] = []
        self._held: frozenset[Edge] = frozenset()
        self._standing: Edge | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="stages", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        buffer = b""
        while True:
            try:
                chunk = self._socket.recv(4096)
            except OSError:
                chunk = b""
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                stage, _, edge = line.decode("utf-8", "replace").partition(" ")
                self._reached(Edge(stage, edge))
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _reached(self, edge: Edge) -> None:
        if self.watcher is not None:
            self.watcher(edge)
        with self._changed:
            self._passed.append(edge)
            hold = edge in self._held
            self._standing = edge if hold else None
            self._changed.notify_all()
        if not hold:
            self._answer()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # the machine may have ended
            self._socket.sendall(ANSWER)

    @property
    def passed(self) -> tuple[Edge, ...]:
        """The edges that were reached so far, in order."""
        with self._changed:
            return tuple(self._passed)

    def hold(self, *edges: Edge) -> None:
        """Let the guest wait at these edges from now on, and at no others."""
        with self._changed:
            self._held = frozenset(edges)

    def wait(self, seconds: float) -> Edge:
        """Return the held edge at which the guest stands, once it does.

        Raises:
            StageTimeoutError: it reached none within ``seconds``, or the machine ended before.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while self._standing is None:
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    why = "the machine ended" if self._ended else f"not within {seconds:g} s"
                    held = ", ".join(sorted(map(str, self._held)))
                    seen = ", ".join(map(str, self._passed[-5:])) or "none"
                    raise StageTimeoutError(f"waited for the edge {held}: {why}", details=f"reached last: {seen}")
                self._changed.wait(left)
            return self._standing

    def go_on(self) -> None:
        """Let the guest go on from the held edge at which it stands."""
        with self._changed:
            standing, self._standing = self._standing, None
        if standing is not None:
            self._answer()

    def close(self) -> None:
        """Stop answering and wait for the thread."""
        with contextlib.suppress(OSError):  # the other end may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
