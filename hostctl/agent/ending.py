"""Ends what a process has started, by process descriptors: a number may come to mean another process at any moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

DEPTH = 64  # generations of processes that are followed; each is one open descriptor


def end_started(pid: int) -> None:
    """Kill what a process has started, and what that has started in turn; the process itself stays.

    Args:
        pid: of a child of ours that was not waited for yet, so that the number is its own.
    """
    _end_children(pid, DEPTH)


def end(pid: int, is_meant: Callable[[], bool], depth: int = DEPTH) -> None:
    """Kill a process and what it has started. It is stopped before it is asked for that, so that no more comes.

    Args:
        pid: of any process.
        is_meant: asked once it is held, and cannot turn into another: the number may have been another's before.
        depth: generations of processes that are followed, with its own.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it has ended
        return
    try:
        if not is_meant():
            return
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        if depth > 1:
            _end_children(pid, depth - 1)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _end_children(pid: int, depth: int) -> None:
    """Kill children and theirs."""
    for child in _children(pid):
        end(child, partial(_is_child, child, pid), depth)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started and that did not end; those of all of its threads."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path("/proc", str(pid), "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _is_child(child: int, pid: int) -> bool:
    return _parent(child) == pid


def _parent(pid: int) -> int:
    """Return who has started a process; 0 if it is not there."""
    try:  # the name in it may hold anything, so it is read from the last parenthesis on
        return int(Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
