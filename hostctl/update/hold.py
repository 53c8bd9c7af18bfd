"""Updates on hold: somebody wants this host to stay as it is, for a time or until they say so.

A hold is one file in the state, so it outlives restarts. While it is there, nothing is taken unattended, a restart that
was announced does not come, and `hostctl update` refuses unless it is told otherwise. A file that cannot be read holds:
whoever wrote it wanted that.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from hostctl import durable
from hostctl.config.quantities import Duration
from hostctl.errors import EXIT_BUSY, HostctlError, UsageError

NAME = "hold.json"
_ROOT_HINT = "holds are for root"
_NO_LOGIN = 2**32 - 1  # audit's loginuid of a process that nobody has logged in for
_MAX_BYTES = 65536


class HeldError(HostctlError):
    """Updates are on hold."""

    id = "update-held"
    exit_code = EXIT_BUSY


class HoldStateError(HostctlError):
    """The hold cannot be written or removed."""

    id = "hold-state"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Who holds updates, why, since when and until when; times are ISO 8601 in UTC."""

    by: str
    reason: str
    time: str
    until: str = ""
    """Empty: until it is released."""

    def __str__(self) -> str:
        """Return it as a sentence's part."""
        until = f" until {self.until}" if self.until else ""
        return f"on hold{until} by {self.by}" + (f": {self.reason}" if self.reason else "")


def _decode(data: bytes) -> Hold:
    """Return the hold that a file holds.

    Raises:
        ValueError: it is none.
    """
    document = json.loads(data)
    there = document if isinstance(document, dict) else {"by": None}
    words = {key: there.get(key, "") for key in ("by", "reason", "time", "until")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("not an object of texts")
    if words["until"]:
        _aware(words["until"])
    return Hold(**words)


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment


def read(state: Path, now: datetime) -> Hold | None:
    """Return the hold in force; none if there is none or its time is over.

    Args:
        state: hostctl's state folder.
        now: the time, aware.
    """
    try:
        with (state / NAME).open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Hold(by="unknown", reason=f"{NAME} cannot be read: {error.strerror}", time="")
    try:
        hold = _decode(data)
        over = bool(hold.until) and now >= _aware(hold.until)
    except (ValueError, RecursionError):
        return Hold(by="unknown", reason=f"{NAME} is damaged; `hostctl hold --release` removes it", time="")
    return None if over else hold


def place(state: Path, hold: Hold) -> None:
    """Put a hold in force, instead of any other.

    Raises:
        HoldStateError: the state cannot be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        durable.write_file(state / NAME, json.dumps(asdict(hold), sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise HoldStateError(f"{state / NAME} cannot be written", details=str(error), hint=_ROOT_HINT) from error


def release(state: Path) -> bool:
    """Remove the hold and tell whether there was one, in force or over.

    Raises:
        HoldStateError: the state cannot be written.
    """
    try:
        (state / NAME).unlink()
        durable.sync_directory(state)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HoldStateError(f"{state / NAME} cannot be removed", details=str(error), hint=_ROOT_HINT) from error
    return True


def require_free(state: Path, now: datetime) -> None:
    """Do nothing unless updates are on hold.

    Raises:
        HeldError: they are.
    """
    hold = read(state, now)
    if hold is not None:
        raise HeldError(
            f"updates are {hold}",
            hint="`hostctl hold --release` ends it; `hostctl update --despite-hold` goes past it once",
        )


def parse_until(text: str, now: datetime, zone: tzinfo) -> datetime:
    """Return when a hold ends that is to last until ``text``.

    Args:
        text: a time as in 2h or 3d, or a date, with or without the time of day, as in 2026-12-24 or 2026-12-24T18:00.
        now: the time, aware.
        zone: time zone of a date that names none.

    Raises:
        UsageError: it is neither, or over already.
    """
    if re.fullmatch(r"([0-9]+[a-z]+)+", text):
        try:
            return now + timedelta(seconds=float(Duration.parse(text)))
        except ValueError as error:
            raise UsageError(f"--until: {error}") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--until: {text!r} is no time", hint="write 2h, 3d, 2026-12-24 or 2026-12-24T18:00"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    if moment <= now:
        raise UsageError(f"--until: {text} is over", hint=f"now it is {now.astimezone(zone):%Y-%m-%dT%H:%M}")
    return moment.astimezone(UTC)


def caller() -> str:
    """Return the name of the person behind this process: as they logged in, whatever they became since."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        uid = _NO_LOGIN
    if uid == _NO_LOGIN:
        name = os.environ.get("SUDO_USER", "")
        if name:
            return name
        uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
