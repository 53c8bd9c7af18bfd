"""A terminal in front of another one: what is typed arrives, what is printed is shown, and nothing stays raw."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import struct
import termios
import threading
from collections.abc import Sequence

import pytest

from hostctl.cli import terminal
from hostctl.errors import HostctlError


def test_both_ways_and_the_size() -> None:
    mine, ours = pty.openpty()  # what a person sits at
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(ours)
    seen: dict[str, object] = {}

    def command(files: Sequence[int]) -> int:  # stands for the agent and the command in the workload
        master, slave = pty.openpty()
        with socket.socket(fileno=os.dup(files[0])) as channel:
            socket.send_fds(channel, [b"\0"], [master])
        os.close(master)
        seen["typed"] = os.read(slave, 100)
        seen["size"] = struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8)))[:2]
        os.write(slave, b"the end")
        os.close(slave)
        return 7

    os.write(mine, b"typed\n")
    reader: list[bytes] = []
    shown = threading.Thread(target=lambda: reader.append(os.read(mine, 1000)))
    shown.start()
    assert terminal.run(command, ours, ours) == 7
    shown.join(10)
    assert seen == {"typed": b"typed\n", "size": (33, 99)}
    assert b"the end" in reader[0] or b"typed" in reader[0]
    assert termios.tcgetattr(ours) == before


def test_a_refusal_is_raised_and_touches_no_terminal() -> None:
    def command(files: Sequence[int]) -> int:
        raise HostctlError("no such workload")

    mine, ours = pty.openpty()
    before = termios.tcgetattr(ours)
    with pytest.raises(HostctlError, match="no such workload"):
        terminal.run(command, ours, ours)
    assert termios.tcgetattr(ours) == before
    os.close(mine)
    os.close(ours)
