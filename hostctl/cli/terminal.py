"""This terminal in front of one inside a workload: raw, of the same size, and always given back as it was."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

CHUNK = 65536
DRAIN_SECONDS = 2.0  # for what a command that has ended may have left in its terminal


class _Call(threading.Thread):
    """Waits for the agent's answer beside the copying; the pipe's end tells of it."""

    def __init__(self, deed: Callable[[Sequence[int]], int], files: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._deed, self._files = deed, files
        self.ended, self._end = os.pipe()
        self.status = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask, and note what came of it."""
        try:
            self.status = self._deed(self._files)
        except BaseException as error:
            self.error = error
        finally:
            os.close(self._end)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSADRAIN)  # what was typed ahead is for the command
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def copy_size(source: int, target: int) -> None:
    """Give one terminal the size of another (ioctl_tty(2))."""
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    fcntl.ioctl(target, termios.TIOCSWINSZ, size)


def _write_all(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def _exchange(master: int, ended: int, standard_in: int, standard_out: int) -> None:
    """Copy both ways until the command has ended and its terminal is empty."""
    sources, patience = [master, standard_in, ended], None
    while True:
        ready, _, _ = select.select(sources, [], [], patience)
        if master in ready:
            try:
                data = os.read(master, CHUNK)
            except OSError:  # EIO: nobody has the other end open
                data = b""
            if not data:
                return
            _write_all(standard_out, data)
        elif not ready:
            return
        if standard_in in ready:
            data = os.read(standard_in, CHUNK)
            if data:
                _write_all(master, data)
            else:
                sources.remove(standard_in)
        if ended in ready:
            sources, patience = [master], DRAIN_SECONDS


def run(deed: Callable[[Sequence[int]], int], standard_in: int = 0, standard_out: int = 1) -> int:
    """Let ``deed`` run a command on a terminal of its own, in front of which is this one.

    Args:
        deed: gets three files, of which the first is the socket that the terminal's master end comes over, and returns
            the command's status.
        standard_in: this terminal.
        standard_out: this terminal.

    Raises:
        HostctlError: what ``deed`` raised.
    """
    here, there = socket.socketpair()
    with here:
        with there:
            call = _Call(deed, (there.fileno(), there.fileno(), there.fileno()))
            call.start()
            select.select([here, call.ended], [], [])
        master = _master(here)
        if master is not None:
            try:
                copy_size(standard_in, master)
                former = signal.signal(signal.SIGWINCH, lambda number, frame: copy_size(standard_in, master))
                try:
                    with _raw(standard_in):
                        _exchange(master, call.ended, standard_in, standard_out)
                finally:
                    signal.signal(signal.SIGWINCH, former)
            finally:
                os.close(master)
        call.join()
    os.close(call.ended)
    if call.error is not None:
        raise call.error
    return call.status


def _master(channel: socket.socket) -> int | None:
    channel.setblocking(False)
    try:
        _, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
    except BlockingIOError:
        return None
    return descriptors[0] if descriptors else None
