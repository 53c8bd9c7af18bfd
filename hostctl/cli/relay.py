"""Pipes in front of this process's own files, because what a workload gets must never be the terminal of a person.

A terminal is a way in: whoever has it open may read what is typed later, and write escapes when nobody expects them.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

CHUNK = 65536


@contextmanager
def _beside(copy: Callable[[int], None]) -> Iterator[None]:
    """Run ``copy`` in a thread, and tell it of the end by closing the other end of the pipe that it is given."""
    ended, end = os.pipe()
    thread = threading.Thread(target=copy, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(ended)


@contextmanager
def outlet(sink: Callable[[bytes], object]) -> Iterator[int]:
    """Give a file to write to, and hand on what is written until the end, whoever has it open after that.

    Args:
        sink: gets the bytes, in another thread; once it fails, nothing is read any more.
    """
    source, target = os.pipe()

    def copy(ended: int) -> None:
        try:
            with suppress(OSError):
                _hand_on(source, ended, sink)
        finally:
            os.close(source)

    with _beside(copy):
        try:
            yield target
        finally:
            os.close(target)


def _hand_on(source: int, ended: int, sink: Callable[[bytes], object]) -> None:
    while True:
        ready, _, _ = select.select([source, ended], [], [])
        if ended in ready:
            break
        data = os.read(source, CHUNK)
        if not data:
            return
        sink(data)
    # What had ended has written all of this; a process that it left behind could write for ever.
    left = int(struct.unpack("i", fcntl.ioctl(source, termios.FIONREAD, struct.pack("i", 0)))[0])
    while left > 0:
        data = os.read(source, min(left, CHUNK))
        left -= len(data)
        sink(data)


@contextmanager
def inlet(terminal: int) -> Iterator[int]:
    """Give a file to read from, which has what is typed at a terminal until the end."""
    source, target = os.pipe()
    os.set_blocking(target, False)

    def copy(ended: int) -> None:
        try:
            with suppress(OSError):  # nobody reads any more, or the terminal is gone
                _type(terminal, target, ended)
        finally:
            os.close(target)

    with _beside(copy):
        try:
            yield source
        finally:
            os.close(source)


def _type(terminal: int, target: int, ended: int) -> None:
    while True:
        ready, _, _ = select.select([terminal, ended], [], [])
        data = b"" if ended in ready else os.read(terminal, CHUNK)
        if not data:
            return
        while data:
            ready, _, _ = select.select([ended], [target], [])
            if ready:
                return
            data = data[os.write(target, data) :]


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


@contextmanager
def files(*, interactive: bool, own: Sequence[int] = (0, 1, 2)) -> Iterator[tuple[int, int, int]]:
    """Give standard input, output and error for a command in a workload: our own, with a pipe before each terminal.

    Args:
        interactive: standard input is given, otherwise it is empty.
        own: our own ones.
    """
    standard_in, standard_out, standard_error = own
    with ExitStack() as stack:

        def out(file: int) -> int:
            return stack.enter_context(outlet(lambda data: _write_all(file, data))) if os.isatty(file) else file

        if not interactive:
            given = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, given)
        else:
            given = stack.enter_context(inlet(standard_in)) if os.isatty(standard_in) else standard_in
        said = out(standard_out)
        # Both on one terminal go through one pipe, which keeps their order.
        one = said != standard_out and os.isatty(standard_error) and os.path.sameopenfile(standard_out, standard_error)
        yield given, said, said if one else out(standard_error)
