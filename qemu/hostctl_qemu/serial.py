"""The serial console of a machine: a thread drains its socket, so that the guest never waits for a reader.

Waits are woken by arriving bytes, have a deadline, and say what they waited for and what came last.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable

from hostctl.errors import HostctlError

TAIL_LINES = 40


class SerialTimeoutError(HostctlError):
    """What was expected did not appear on the serial console."""

    id = "serial-timeout"


class SerialConsole:
    """Collects what a guest prints.

    Args:
        connection: the connected socket of the console.

    `sink`, when set, gets every piece as it comes, for example to show it on a terminal.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.sink: Callable[[bytes], object] | None = None
        self._socket = connection
        self._output = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._drain, name="serial", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            try:
                chunk = self._socket.recv(65536)
            except OSError:
                chunk = b""
            if chunk and self.sink is not None:
                self.sink(chunk)
            with self._changed:
                self._output += chunk
                self._ended = not chunk
                self._changed.notify_all()
            if not chunk:
                return

    @property
    def text(self) -> str:
        """Everything printed so far."""
        with self._changed:
            return self._output.decode("utf-8", "replace")

    @property
    def position(self) -> int:
        """How many bytes came so far, to wait for something only after them."""
        with self._changed:
            return len(self._output)

    def send(self, data: bytes) -> None:
        """Type ``data`` on the console."""
        self._socket.sendall(data)

    def wait(self, pattern: str, seconds: float, *, after: int = 0) -> re.Match[str]:
        """Return the first match of a regular expression in what is printed.

        Args:
            pattern: the expression; `^` and `$` match at lines.
            seconds: how long to wait for it.
            after: skip this many bytes, see :attr:`position`.

        Raises:
            SerialTimeoutError: it did not come in time, or the machine ended before.
        """
        expression = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                text = self._output[after:].decode("utf-8", "replace").replace("\r\n", "\n")
                if match := expression.search(text):
                    return match
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    why = "the machine ended first" if self._ended else f"it did not come within {seconds:g} s"
                    tail = "\n".join(text.splitlines()[-TAIL_LINES:])
                    raise SerialTimeoutError(f"waited for {pattern!r} on the serial console: {why}", details=tail)
                self._changed.wait(left)

    def close(self) -> None:
        """Stop reading and wait for the thread."""
        with contextlib.suppress(OSError):  # the other end may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
