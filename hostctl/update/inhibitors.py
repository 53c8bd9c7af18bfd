"""Who holds back a restart of the host: units and people by systemd-logind, workloads by a lock on a file.

logind's inhibitors of shutdown (``systemd-inhibit --what=shutdown --mode=block``) are read over its bus. A workload
with ``may_delay_reboot`` sees one empty file, read-only, at /run/hostctl/inhibit, and holds a restart back while any of
its processes has a lock (flock) on it: nothing can be written there, and the kernel drops the lock with the process.
Locks are read from /proc/locks, because trying for one would get in the workload's way.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from hostctl.run import CommandError, run
from hostctl.workload.instance import name_of

log = logging.getLogger(__name__)

FOLDER = "inhibit"
"""Below the runtime folder: one file for each workload that may hold a restart back, by its name."""
_LISTED = 120  # characters of a name or reason


def of_logind() -> tuple[str, ...]:
    """Return who blocks a shutdown, and why, by systemd-logind. Without logind nobody does."""
    words = ["busctl", "--json=short", "call", "org.freedesktop.login1", "/org/freedesktop/login1"]
    try:
        done = run([*words, "org.freedesktop.login1.Manager", "ListInhibitors"], timeout=30)
    except CommandError as error:
        log.warning("systemd-logind does not tell who holds a restart back: %s", error.details or error.brief)
        return ()
    return parse_logind(done.text)


def parse_logind(text: str) -> tuple[str, ...]:
    """Return who blocks a shutdown in the answer of ``ListInhibitors``, an array of (ssssuu): what, who, why, mode…"""
    try:
        rows = json.loads(text)["data"][0]
        return tuple(
            f"{_shown(who)} ({_shown(why)})" if why else _shown(who)
            for what, who, why, mode, *_ in rows
            if "shutdown" in what.split(":") and mode.startswith("block")
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        log.warning("systemd-logind lists its inhibitors in a way that cannot be read: %s", error)
        return ()


def of_workloads(runtime: Path, locks: Path = Path("/proc/locks")) -> tuple[str, ...]:
    """Return the workloads that hold a restart back, by name.

    Args:
        runtime: hostctl's runtime folder.
        locks: the kernel's list of file locks.
    """
    folder = runtime / FOLDER
    if not folder.is_dir():
        return ()
    held = locked_files(locks.read_text(encoding="ascii", errors="replace"))
    found = []
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        if (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino) in held:
            found.append(f"workload {name_of(path.name)}")
    return tuple(found)


def locked_files(text: str) -> frozenset[tuple[int, int, int]]:
    """Return the files that are locked, by device and inode, from proc_locks(5).

    A lock is ``1: FLOCK  ADVISORY  WRITE 402 00:15:377 0 EOF`` with the device in hexadecimal; one that is waited for
    has ``->`` after the number and is none yet.
    """
    found = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] != "->":
            major, minor, inode = words[5].split(":")
            found.add((int(major, 16), int(minor, 16), int(inode)))
    return frozenset(found)


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:_LISTED])
