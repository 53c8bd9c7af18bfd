"""The ways in which a connection fails what comes through it: too slow, never ending, cut off, or not HTTP at all."""

from __future__ import annotations

from hostctl_qemu.faulty_answer import CHUNK, Answer, Mode, register

MODES: dict[str, Mode] = {}
mode = register(MODES)


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
    answer.body(answer.part[0], answer.half)
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
def not_http(answer: Answer) -> None:
    """Another protocol."""
    answer.write(b"SSH-2.0-OpenSSH_10.0\r\n")
    answer.end()
