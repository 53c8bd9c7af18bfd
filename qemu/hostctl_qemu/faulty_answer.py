"""One request to a server that may answer badly: what is served, how long to wait, and the means to answer.

:func:`honest` is how a good server answers. The ways to fail are in ``faulty_content.py`` (what is sent is wrong) and
``faulty_connection.py`` (when and how it comes is wrong); each is a function that answers one request.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Protocol

CHUNK = 1 << 16


class Source(Protocol):
    """What is served."""

    size: int

    def read(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on."""


class Pace:
    """Waits for slow modes; all of them end at once when the server is healed."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._released = threading.Event()

    def rest(self, ticks: float = 1.0) -> bool:
        """Wait, and tell whether to go on."""
        return not self._released.wait(self.tick * ticks)

    def release(self) -> None:
        """Let everybody who waits go; the next ones wait again."""
        before, self._released = self._released, threading.Event()
        before.set()

    def for_ever(self) -> None:
        """Wait until released."""
        self._released.wait()


class Answer:
    """One request, and the means to answer it well or badly."""

    def __init__(
        self, handler: BaseHTTPRequestHandler, source: Source, span: tuple[int, int | None] | None, pace: Pace
    ) -> None:
        self.handler = handler
        self.source = source
        self.span = span
        self.pace = pace

    @property
    def part(self) -> tuple[int, int]:
        """Return what was asked for, as first byte and the byte after the last."""
        start, end = self.span or (0, None)
        return start, min(self.source.size if end is None else end, self.source.size)

    @property
    def half(self) -> int:
        """Return the byte in the middle of what was asked for."""
        start, end = self.part
        return start + (end - start) // 2

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers as they are given."""
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()

    def fitting(self, length: int | None = None) -> None:
        """Send the head of an honest answer, or one with another length."""
        start, end = self.part
        headers = {"Content-Length": str(end - start if length is None else length)}
        if self.span is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{self.source.size}"
        self.head(200 if self.span is None else 206, {"Content-Type": "application/octet-stream", **headers})

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of the file."""
        while start < end and (chunk := self.source.read(start, min(CHUNK, end - start))):
            start += len(chunk)
            yield chunk

    def body(self, start: int, end: int) -> None:
        """Send a part of the file."""
        for chunk in self.chunks(start, end):
            self.write(chunk)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.handler.wfile.write(data)

    def end(self) -> None:
        """Close the connection after this answer."""
        self.handler.close_connection = True

    def reset(self) -> None:
        """Reset the connection: what was sent may be lost, too."""
        self.handler.wfile.flush()
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self.end()


Mode = Callable[[Answer], None]


def register(modes: dict[str, Mode]) -> Callable[[Mode], Mode]:
    """Return what adds a way to fail to ``modes``, named as its function."""

    def mode(function: Mode) -> Mode:
        modes[function.__name__.replace("_", "-")] = function
        return function

    return mode


def honest(answer: Answer) -> None:
    """Answer well."""
    start, end = answer.part
    if start >= end and answer.source.size:
        answer.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{answer.source.size}"})
        return
    answer.fitting()
    answer.body(start, end)
