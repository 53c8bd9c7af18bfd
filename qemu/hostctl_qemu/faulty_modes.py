"""The ways in which a server of static files fails its clients. Each is a function that answers one request.

Those of a name in :data:`MODES` are what a fault test chooses from; :func:`honest` is how a good server answers.
"""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Protocol

HONEST = "honest"
CHUNK = 1 << 16
PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in to the network.</body></html>"


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
MODES: dict[str, Mode] = {}


def mode(function: Mode) -> Mode:
    """Add a way to fail, named as its function."""
    MODES[function.__name__.replace("_", "-")] = function
    return function


def honest(answer: Answer) -> None:
    """Answer well."""
    start, end = answer.part
    if start >= end and answer.source.size:
        answer.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{answer.source.size}"})
        return
    answer.fitting()
    answer.body(start, end)


def _half(answer: Answer) -> int:
    start, end = answer.part
    return start + (end - start) // 2


@mode
def truncated(answer: Answer) -> None:
    """The connection ends after half of what was announced."""
    answer.fitting()
    answer.body(answer.part[0], _half(answer))
    answer.end()


@mode
def truncated_silently(answer: Answer) -> None:
    """Half of the file, with no length announced."""
    answer.head(200, {"Connection": "close"})
    answer.body(0, answer.source.size // 2)
    answer.end()


def _more(answer: Answer) -> None:
    for _ in range(128):
        answer.write(bytes(CHUNK))


@mode
def longer(answer: Answer) -> None:
    """A larger file than it should be, announced as such."""
    answer.head(200, {"Content-Length": str(answer.source.size + 128 * CHUNK)})
    answer.body(0, answer.source.size)
    _more(answer)


@mode
def longer_silently(answer: Answer) -> None:
    """A larger file, with no length announced."""
    answer.head(200, {"Connection": "close"})
    answer.body(0, answer.source.size)
    _more(answer)
    answer.end()


@mode
def shorter(answer: Answer) -> None:
    """A smaller file than it should be, whole in itself."""
    answer.head(200, {"Content-Length": str(answer.source.size // 2)})
    answer.body(0, answer.source.size // 2)


@mode
def bit_flip(answer: Answer) -> None:
    """One bit is another."""
    answer.fitting()
    position, place = answer.part[0], _half(answer)
    for chunk in answer.chunks(*answer.part):
        altered = bytearray(chunk)
        if position <= place < position + len(chunk):
            altered[place - position] ^= 4
        position += len(chunk)
        answer.write(bytes(altered))


@mode
def other_content(answer: Answer) -> None:
    """Another file of the same size."""
    answer.fitting()
    for chunk in answer.chunks(*answer.part):
        answer.write(b"x" * len(chunk))


@mode
def missing(answer: Answer) -> None:
    """HTTP status 404."""
    answer.head(404, {"Content-Length": "0"})


@mode
def forbidden(answer: Answer) -> None:
    """HTTP status 403."""
    answer.head(403, {"Content-Length": "0"})


@mode
def broken(answer: Answer) -> None:
    """HTTP status 500."""
    answer.head(500, {"Content-Length": "0"})


@mode
def busy(answer: Answer) -> None:
    """HTTP status 503, and a wish to be asked again in a second."""
    answer.head(503, {"Content-Length": "0", "Retry-After": "1"})


@mode
def busy_for_a_day(answer: Answer) -> None:
    """HTTP status 503, and a wish to be asked again tomorrow."""
    answer.head(503, {"Content-Length": "0", "Retry-After": "86400"})


@mode
def redirect_loop(answer: Answer) -> None:
    """A redirect to the same place."""
    answer.head(302, {"Content-Length": "0", "Location": answer.handler.path})


@mode
def redirect_endless(answer: Answer) -> None:
    """Redirects that never lead to the same place twice."""
    answer.head(302, {"Content-Length": "0", "Location": f"{answer.handler.path}?x"})


@mode
def redirect_metadata_service(answer: Answer) -> None:
    """A redirect to a cloud's metadata service."""
    answer.head(302, {"Content-Length": "0", "Location": "http://169.254.169.254/latest/meta-data/"})


@mode
def redirect_disguised(answer: Answer) -> None:
    """The same, with the address written as one number."""
    answer.head(307, {"Content-Length": "0", "Location": "http://2852039166/latest/meta-data/"})


@mode
def redirect_file(answer: Answer) -> None:
    """A redirect to a local file."""
    answer.head(302, {"Content-Length": "0", "Location": "file:///etc/passwd"})


@mode
def moved(answer: Answer) -> None:
    """A redirect to the file elsewhere on the same server, which is no fault."""
    if answer.handler.path.endswith("?moved"):
        honest(answer)
    else:
        answer.head(301, {"Content-Length": "0", "Location": f"{answer.handler.path}?moved"})


@mode
def gzipped(answer: Answer) -> None:
    """The file compressed, although nobody asked for that."""
    answer.head(200, {"Content-Encoding": "gzip", "Connection": "close"})
    packer = zlib.compressobj(level=1, wbits=31)
    for chunk in answer.chunks(0, answer.source.size):
        answer.write(packer.compress(chunk))
    answer.write(packer.flush())
    answer.end()


@mode
def range_ignored(answer: Answer) -> None:
    """The whole file, whatever part was asked for."""
    answer.head(200, {"Content-Length": str(answer.source.size)})
    answer.body(0, answer.source.size)


@mode
def range_wrong(answer: Answer) -> None:
    """Another part than was asked for, and it says so."""
    size = answer.source.size
    answer.head(206, {"Content-Length": str(size - 1), "Content-Range": f"bytes 1-{size - 1}/{size}"})
    answer.body(1, size)


@mode
def range_shifted(answer: Answer) -> None:
    """Another part than was asked for, and it says that it is the right one."""
    answer.fitting()
    start, end = answer.part
    answer.body(start + 1, end)
    answer.write(answer.source.read(0, 1))


@mode
def range_nonsense(answer: Answer) -> None:
    """A part whose place cannot be read."""
    answer.head(206, {"Content-Length": str(answer.source.size), "Content-Range": "lines 1-2/3"})
    answer.body(0, answer.source.size)


@mode
def range_refused(answer: Answer) -> None:
    """HTTP status 416."""
    answer.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{answer.source.size}"})


@mode
def range_short(answer: Answer) -> None:
    """Half of the part that was asked for, which a server may do."""
    (start, end), size = answer.part, answer.source.size
    if answer.span is None or end - start < CHUNK:
        honest(answer)
        return
    half = _half(answer)
    answer.head(206, {"Content-Length": str(half - start), "Content-Range": f"bytes {start}-{half - 1}/{size}"})
    answer.body(start, half)


@mode
def slow(answer: Answer) -> None:
    """One byte a tick."""
    answer.fitting()
    for chunk in answer.chunks(*answer.part):
        for place in range(len(chunk)):
            answer.write(chunk[place : place + 1])
            if not answer.pace.rest():
                return


def _stall(answer: Answer, share: float) -> None:
    start, end = answer.part
    answer.fitting()
    answer.body(start, start + int((end - start) * share))
    answer.pace.for_ever()
    answer.end()


@mode
def stall_half(answer: Answer) -> None:
    """Nothing more after half."""
    _stall(answer, 0.5)


@mode
def stall_end(answer: Answer) -> None:
    """Nothing more after 99 %."""
    _stall(answer, 0.99)


@mode
def slow_headers(answer: Answer) -> None:
    """Headers one byte a tick."""
    answer.write(b"HTTP/1.1 200 OK\r\n")
    while answer.pace.rest():
        answer.write(b"X")


@mode
def silent(answer: Answer) -> None:
    """No answer at all, and the connection stays."""
    answer.pace.for_ever()
    answer.end()


@mode
def endless(answer: Answer) -> None:
    """A body without end."""
    answer.head(200, {"Connection": "close"})
    while True:
        answer.write(b" " * CHUNK)


@mode
def endless_headers(answer: Answer) -> None:
    """Headers without end."""
    answer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        answer.write(b"X-Filler: " + b"x" * 60_000 + b"\r\n")


@mode
def endless_continue(answer: Answer) -> None:
    """One interim answer after the other."""
    while True:
        answer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@mode
def endless_trailer(answer: Answer) -> None:
    """A chunked body whose trailer has no end."""
    answer.head(200, {"Transfer-Encoding": "chunked"})
    data = answer.source.read(0, answer.source.size)
    answer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n")
    while True:
        answer.write(b"X-Filler: x\r\n" * 1000)


@mode
def reset(answer: Answer) -> None:
    """The connection is reset after half."""
    answer.fitting()
    answer.body(answer.part[0], _half(answer))
    answer.reset()


@mode
def closed(answer: Answer) -> None:
    """The connection ends without an answer."""
    answer.end()


@mode
def flapping(answer: Answer) -> None:
    """The connection is cut after a tenth of the file, each time."""
    start, end = answer.part
    answer.fitting()
    answer.body(start, min(end, start + max(1, answer.source.size // 10)))
    answer.end()


@mode
def portal(answer: Answer) -> None:
    """A login page in place of the file."""
    answer.head(200, {"Content-Length": str(len(PAGE)), "Content-Type": "text/html; charset=utf-8"})
    answer.write(PAGE)


@mode
def portal_same_size(answer: Answer) -> None:
    """A login page, padded to the size that was announced for the file."""
    answer.head(200, {"Content-Length": str(answer.source.size), "Content-Type": "text/html"})
    answer.write(PAGE.ljust(answer.source.size)[: answer.source.size])


@mode
def length_too_small(answer: Answer) -> None:
    """More bytes than announced; the rest would be taken for the next answer."""
    answer.fitting(max(1, (answer.part[1] - answer.part[0]) // 2))
    answer.body(*answer.part)


@mode
def length_nonsense(answer: Answer) -> None:
    """A length that is no number."""
    answer.head(200, {"Content-Length": "many"})
    answer.body(0, answer.source.size)
    answer.end()


@mode
def growing(answer: Answer) -> None:
    """The file has another size than the first answer said, as one that is written to."""
    (start, end), size = answer.part, answer.source.size + 1000
    if answer.span is None:
        answer.head(200, {"Content-Length": str(size)})
        answer.body(0, answer.source.size)
        answer.write(bytes(1000))
        return
    answer.head(206, {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{size}"})
    answer.body(start, end)


@mode
def changing(answer: Answer) -> None:
    """Half of the file; whoever comes for the rest finds another file of the same size."""
    if answer.part[0] > 0:
        other_content(answer)
    else:
        truncated(answer)


@mode
def not_http(answer: Answer) -> None:
    """Another protocol."""
    answer.write(b"SSH-2.0-OpenSSH_10.0\r\n")
    answer.end()
