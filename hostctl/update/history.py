"""What happened to the releases of a host: one JSON object a line, appended and flushed.

A line that a power cut tore, and lines of a later format, are passed over when reading. Never rewritten. Releases are
told apart by their root hash; the version is for people, and the same one can be published again, mended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl.boot.entries import BootEntry
from hostctl.boot.last_words import Words

STAGED = "staged"
BLESSED = "blessed"
BAD = "bad"
ROLLED_BACK = "rolled-back"
FAILED = "failed"
CRASHED = "crashed"
REPAIRED = "repaired"
RENEWED = "renewed"
NOT_RENEWED = "not-renewed"
GIVEN_UP = "it did not come up as often as it was tried"
MAX_LINES = 20
MAX_LINE = 300  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened."""

    time: str
    """When, UTC, ISO 8601."""
    event: str
    """One of the words above."""
    version: str
    """The release it happened to, or under which it happened to a workload."""
    cause: str = ""
    root_hash: str = ""
    """Of the release, hexadecimal; empty where it was not known."""
    lines: tuple[str, ...] = ()
    """Last lines of the journal or the console that tell of the cause, oldest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The releases that must not be taken again."""

    digests: frozenset[str]
    """Their root hashes."""
    versions: frozenset[str]
    """Those of which only the version is known."""

    def holds(self, version: str, root_hash: str) -> bool:
        """Tell whether a release is one of them."""
        return root_hash in self.digests or version in self.versions


def append(
    path: Path, event: str, version: str, cause: str = "", *, root_hash: str = "", lines: Sequence[str] = ()
) -> Event:
    """Add an event that happens now, and flush it to the disk.

    Args:
        path: the history file.
        event: one of the words above.
        version: the release it happens to.
        cause: one line.
        root_hash: of the release, if it is known.
        lines: what the machine said last; the last ``MAX_LINES`` of them, cut to ``MAX_LINE`` characters, are kept.
    """
    record = Event(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        event=event,
        version=version,
        cause=cause,
        root_hash=root_hash,
        lines=tuple(line[:MAX_LINE] for line in lines[-MAX_LINES:]),
    )
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


def note(
    path: Path,
    warn: Callable[[str], object],
    event: str,
    version: str,
    cause: str = "",
    *,
    root_hash: str = "",
    lines: Sequence[str] = (),
) -> None:
    """Add an event, as :func:`append`; where the disk does not take it, ``warn`` is told, and nothing else is lost."""
    try:
        append(path, event, version, cause, root_hash=root_hash, lines=lines)
    except OSError as error:
        known = " ".join(word for word in (version, event, cause) if word)
        warn(f"the history cannot be written, it will not know of: {known}: {error}")


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
        words = {key: record.get(key, "") for key in ("time", "event", "version", "cause", "root_hash")}
        lines = record.get("lines", [])
    except (ValueError, AttributeError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in words.values()) or not words["event"] or not words["version"]:
        return None
    if not isinstance(lines, list) or not all(isinstance(text, str) for text in lines):
        return None
    return Event(**words, lines=tuple(lines))


def _left(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.event in (BAD, ROLLED_BACK)]


def bad_versions(events: Iterable[Event]) -> frozenset[str]:
    """Return the versions that were found bad or left by a rollback, to be shown to people."""
    return frozenset(event.version for event in _left(events))


def bad_digests(events: Iterable[Event]) -> frozenset[str]:
    """Return the root hashes of the releases that were found bad or left by a rollback."""
    return frozenset(event.root_hash for event in _left(events) if event.root_hash)


def refused(events: Iterable[Event]) -> Refused:
    """Return the releases that must not be taken again: found bad, or left by a rollback."""
    left = _left(events)
    return Refused(
        digests=bad_digests(left),
        versions=frozenset(event.version for event in left if not event.root_hash),
    )


def unexplained(root_hash: str) -> Words:
    """Return all that can be said of a release of which nothing but its entry without tries is left."""
    del root_hash
    return Words(cause=GIVEN_UP)


def note_given_up(
    path: Path,
    entries: Iterable[BootEntry],
    running: str,
    digests: Mapping[str, str],
    explain: Callable[[str], Words] = unexplained,
) -> Refused:
    """Note the releases whose entries have no tries left, each once, and return all that must not be taken again.

    Args:
        path: the history file.
        entries: what is in the ESP.
        running: version of the running release. In its last try its entry has none left either, and whether it is
            good is still to be judged.
        digests: root hash of each version that is in a slot.
        explain: says why the release of a root hash did not come up.
    """
    events = read(path)
    known = refused(events)
    given_up = {entry.version: digests.get(entry.version, "") for entry in entries if entry.bad}
    given_up.pop(running, None)
    new = {version: digest for version, digest in given_up.items() if not _noted(events, version, digest)}
    for version, digest in sorted(new.items()):
        words = explain(digest)
        append(path, BAD, version, words.cause, root_hash=digest, lines=words.lines)
    return Refused(
        digests=known.digests | {digest for digest in new.values() if digest},
        versions=known.versions | {version for version, digest in new.items() if not digest},
    )


def _noted(events: Iterable[Event], version: str, digest: str) -> bool:
    """Tell whether a release was left already; one whose slot is gone is known by its version alone."""
    return any(event.version == version and digest in ("", event.root_hash) for event in _left(events))
