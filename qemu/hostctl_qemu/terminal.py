"""Puts a machine's serial console on the terminal, until the machine ends or Ctrl-A X is typed."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from hostctl_qemu.machine import Machine

ESCAPE = 0x01  # Ctrl-A, as in QEMU's own terminal


def typed(data: bytes, escaped: bool) -> tuple[bytes, bool, bool]:
    """Return what goes to the guest, whether an escape is open, and whether the user wants to leave.

    Args:
        data: what was typed.
        escaped: whether Ctrl-A was the last key before it. Ctrl-A twice sends one.
    """
    out = bytearray()
    for key in data:
        if not escaped and key == ESCAPE:
            escaped = True
            continue
        if escaped and key in b"xX":
            return bytes(out), False, True
        if not escaped or key == ESCAPE:
            out.append(key)
        escaped = False
    return bytes(out), escaped, False


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def attach(machine: Machine) -> None:
    """Run a machine that was started paused, with its console on standard input and output, to its end."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    ended = os.pidfd_open(machine.process.pid)
    machine.serial.sink = lambda chunk: os.write(stdout, chunk)
    watched, escaped, leave = [ended, stdin], False, False
    try:
        with _raw(stdin):
            machine.qmp.execute("cont")
            while not leave:
                ready, _, _ = select.select(watched, [], [])
                if ended in ready:
                    machine.wait_end(1.0)
                    return
                data = os.read(stdin, 4096)
                if not data:
                    watched.remove(stdin)  # no terminal: the machine goes on by itself
                    continue
                keys, escaped, leave = typed(data, escaped)
                machine.serial.send(keys)
    finally:
        os.close(ended)
    machine.quit()
