"""What the updater did, stage by stage, with how long it took and why it ended: one JSON object a line, flushed.

Only told to people and programs; nothing decides by it. So a full disk costs lines here and never an update. Bounded:
past a size, the older half goes. A line that a power cut tore is passed over.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from hostctl.durable import write_file
from hostctl.errors import HostctlError

log = logging.getLogger(__name__)

STARTED = "started"
DONE = "done"
FAILED = "failed"
FINISHED = "finished"
MAX_BYTES = 256 << 10
MAX_CAUSE = 1000  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that the updater did."""

    time: str
    """When it was over, UTC, ISO 8601."""
    event: str
    """One of the words above: an update started, a stage is done or failed, the update is finished."""
    version: str = ""
    """The release that is updated to."""
    root_hash: str = ""
    stage: str = ""
    seconds: float = 0.0
    bytes: int = 0
    """That the stage wrote or read, if it counts."""
    cause: str = ""
    """Why a stage failed, or why the update goes the way it goes."""


def now() -> str:
    """Return the time as a line holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cause_of(error: BaseException) -> str:
    """Return in one line why something ended."""
    if isinstance(error, HostctlError):
        return error.brief
    return f"ended by {type(error).__name__}{f': {error}' if str(error) else ''}"


class Journal:
    """Writes the journal. What cannot be written is lost, with one warning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = ""
        """Why a line was lost; empty as long as none was."""

    def add(self, line: Line) -> None:
        """Append a line and flush it."""
        data = json.dumps(asdict(line), sort_keys=True).encode() + b"\n"
        try:
            self._append(data)
        except OSError as error:
            if not self.lost:
                log.warning("%s cannot be written, the update goes on without: %s", self.path, error)
            self.lost = str(error)

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size + len(data) > MAX_BYTES:
                write_file(self.path, _newer_half(self.path) + data)
                return
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            if os.write(descriptor, b"\n" + data if torn else data) < len(data):
                raise OSError("only a part of the line was written")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _newer_half(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(MAX_BYTES // 2, path.stat().st_size), os.SEEK_END)
        return file.read().partition(b"\n")[2]


def read(path: Path) -> tuple[Line, ...]:
    """Return the lines, oldest first; none if there is no journal yet, or it cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    return tuple(line for line in map(_decode, lines) if line is not None)


def _decode(data: bytes) -> Line | None:
    try:
        record = json.loads(data)
        values = {key: record[key] for key in record if key in {field.name for field in fields(Line)}}
        line = Line(**values)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    words = (line.time, line.event, line.version, line.root_hash, line.stage, line.cause)
    numbers = (line.seconds, line.bytes)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(part, int | float) for part in numbers):
        return None
    return line
