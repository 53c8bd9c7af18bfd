"""What happened to the releases of a host: one JSON object a line, appended and flushed.

A line that a power cut tore, and lines of a later format, are passed over when reading. Never rewritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl.boot.entries import BootEntry

STAGED = "staged"
BLESSED = "blessed"
BAD = "bad"
ROLLED_BACK = "rolled-back"
FAILED = "failed"
GIVEN_UP = "it did not come up as often as it was tried"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened."""

    time: str
    """When, UTC, ISO 8601."""
    event: str
    """One of the words above."""
    version: str
    """The release it happened to."""
    cause: str = ""


def append(path: Path, event: str, version: str, cause: str = "") -> Event:
    """Add an event that happens now, and flush it to the disk."""
    record = Event(time=datetime.now(UTC).isoformat(timespec="seconds"), event=event, version=version, cause=cause)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(record), sort_keys=True).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" + line if torn else line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return record


def read(path: Path) -> tuple[Event, ...]:
    """Return the events, oldest first; none if there is no history yet."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(event for event in map(_decode, lines) if event is not None)


def _decode(line: bytes) -> Event | None:
    try:
        record = json.loads(line)
        words = {key: record.get(key, "") for key in ("time", "event", "version", "cause")}
    except (ValueError, AttributeError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in words.values()) or not words["event"] or not words["version"]:
        return None
    return Event(**words)


def bad_versions(events: Iterable[Event]) -> frozenset[str]:
    """Return the releases that must not be taken again: found bad, or left by a rollback."""
    return frozenset(event.version for event in events if event.event in (BAD, ROLLED_BACK))


def note_given_up(path: Path, entries: Iterable[BootEntry], running: str) -> frozenset[str]:
    """Note the releases whose entries have no tries left, each once, and return all versions never to take again.

    Args:
        path: the history file.
        entries: what is in the ESP.
        running: version of the running release. In its last try its entry has none left either, and whether it is
            good is still to be judged.
    """
    known = bad_versions(read(path))
    given_up = {entry.version for entry in entries if entry.bad and entry.version != running}
    for version in sorted(given_up - known):
        append(path, BAD, version, GIVEN_UP)
    return known | given_up
