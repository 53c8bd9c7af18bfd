"""Ends what a process has started, by process descriptors: a number may come to mean another process at any moment."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

DEPTH = 64  # generations of processes that are followed; each is one open descriptor


def end_started(pid: int) -> None:
    """Kill what a process has started, and what that has started in turn; the process itself stays.

    Args:
        pid: of a child of ours that was not waited for yet, so that the number is its own.
    """
    _end_children(pid, DEPTH)


def _end_children(pid: int, depth: int) -> None:
    """Kill children and theirs. Each is stopped before it is asked for its own, so that no more come."""
    for child in _children(pid):
        try:
            descriptor = os.pidfd_open(child)
        except OSError:  # it has ended
            continue
        try:
            if _parent(child) != pid:  # now that it is held: its number was another's
                continue
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            if depth > 1:
                _end_children(child, depth - 1)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started and that did not end; those of all of its threads."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path("/proc", str(pid), "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _parent(pid: int) -> int:
    """Return who has started a process; 0 if it is not there."""
    try:  # the name in it may hold anything, so it is read from the last parenthesis on
        return int(Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
