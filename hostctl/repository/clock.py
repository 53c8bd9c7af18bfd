"""What time it is for a host that cannot be sure.

Two clocks. The wall clock may be wrong in both directions. The *floor* is a time that has surely passed: the release
that runs was built then, or a timestamp whose signature holds says that it was signed then. Decisions use the later of
the two, so a clock in 1970 brings no expired metadata back. The floor never follows the wall clock, so one that was ten
years ahead for a while leaves nothing behind. Durations inside a process use the monotonic clock, not this module.

What is remembered lies in one small file, :func:`memory_file`. Losing it costs the part of the floor that is not in the
image: the build time of the running release, and its version, stay. For how long a repository has been silent is kept
elsewhere, see ``update/freshness.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl.durable import write_file

SIGNED = "x-signed"
"""Field of a timestamp, which TUF lets pass: when it was signed. See :func:`stamp`."""
START = datetime(1970, 1, 1, tzinfo=UTC)
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_MAX_MEMORY = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What a host remembers of its repository's time. All of it is gone with ``/var``."""

    proven: datetime | None = None
    """The latest time of signing that was proven."""
    keys: str = ""
    """Which timestamp keys proved it: :func:`fingerprint`."""
    timestamp: int = 0
    """Version of the last valid timestamp, by these keys."""


def memory_file(state: Path) -> Path:
    """Return where the memory lies in hostctl's state folder."""
    return state / "clock.json"


def read(path: Path) -> Memory:
    """Return what is remembered; nothing if the file is missing or broken."""
    try:
        return decode(path.read_bytes())
    except OSError:
        return Memory()


def write(path: Path, memory: Memory) -> None:
    """Remember, so that a power cut cannot tear it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encode(memory))


def encode(memory: Memory) -> bytes:
    """Return the memory as JSON."""
    proven = None if memory.proven is None else stamp(memory.proven)
    return json.dumps({**asdict(memory), "proven": proven}, sort_keys=True).encode()


def decode(data: bytes) -> Memory:
    """Read the memory; what cannot be read is not remembered."""
    try:
        fields = json.loads(data[:_MAX_MEMORY])
        proven = fields.get("proven")
        return Memory(
            proven=None if proven is None else parse_stamp(str(proven)),
            keys=str(fields.get("keys", "")),
            timestamp=max(0, int(fields.get("timestamp", 0))),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return Memory()


def stamp(time: datetime) -> str:
    """Return a time as the publisher writes it into the field :data:`SIGNED` of a timestamp."""
    return time.astimezone(UTC).strftime(_FORMAT)


def parse_stamp(text: str) -> datetime:
    """Read a time as :func:`stamp` writes it.

    Raises:
        ValueError: it is none.
    """
    return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)


def signing_time(fields: Mapping[str, object], expiries: Iterable[datetime]) -> datetime | None:
    """Return when a timestamp says it was signed.

    Args:
        fields: those of the timestamp that TUF does not define.
        expiries: of everything that is valid along with it. A signing time after one of them is nonsense, and would
            make valid metadata expire; it is passed over.
    """
    try:
        signed = parse_stamp(str(fields[SIGNED]))
    except (KeyError, ValueError):
        return None
    return signed if signed < min(expiries) else None


def fingerprint(keyids: Iterable[str]) -> str:
    """Return what tells sets of keys apart."""
    return hashlib.sha256("\n".join(sorted(keyids)).encode()).hexdigest()


def floor(built: datetime, memory: Memory, keys: str | None = None) -> datetime:
    """Return the time that has surely passed.

    Args:
        built: when the running release was built.
        memory: what is remembered.
        keys: fingerprint of the present timestamp keys, if they are known. What others proved does not count: they
            were replaced, perhaps because they were stolen and signed the future.
    """
    if memory.proven is None or (keys is not None and keys != memory.keys):
        return built
    return max(built, memory.proven)


def raised(before: datetime, wall: datetime, signed: datetime | None) -> datetime:
    """Return the floor after a signing time was proven.

    While the wall clock is plausible it has to agree, so that a publisher whose clock is ahead does no harm; while it
    is behind the floor it is known to be wrong and has no say. By itself it never raises the floor.
    """
    if signed is None:
        return before
    return max(before, signed if wall < before else min(signed, wall))


def release_time(root: Path) -> datetime:
    """Return when the release below ``root`` was built: all files of its verified image have that time."""
    try:
        return datetime.fromtimestamp((root / "usr/lib/os-release").stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return START
