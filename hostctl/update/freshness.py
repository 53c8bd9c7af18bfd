"""When this host last got word from its repository that could be trusted.

Somebody between host and repository can keep it from news without forging anything; a host that has heard nothing for
long says so. The time is written with the boot and its uptime, so that setting the clock makes no age within a boot,
and in a later one none that is shorter than that boot has lasted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from hostctl import durable

NAME = "checked.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A moment, by the clock and by the boot; ``uptime`` in seconds of CLOCK_BOOTTIME."""

    time: datetime
    boot: str
    uptime: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The last look at the repository that succeeded; if none ever did, when the first was tried."""

    time: str
    """ISO 8601."""
    boot: str
    uptime: float
    freeze_after: float
    """Seconds after which silence is worth an alarm, as declared then."""

    def age(self, now: Moment) -> float:
        """Return how long ago it was, in seconds; at the least what is certain."""
        if self.boot == now.boot:
            return max(0.0, now.uptime - self.uptime)
        return max(now.uptime, (now.time - datetime.fromisoformat(self.time)).total_seconds())

    def frozen(self, now: Moment) -> bool:
        """Tell whether it is too long ago."""
        return self.age(now) > self.freeze_after


def read(state: Path) -> Checked | None:
    """Return what is written down; none if nothing is, or nothing that makes sense."""
    try:
        with (state / NAME).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        found = Checked(
            time=document["time"],
            boot=str(document["boot"]),
            uptime=float(document["uptime"]),
            freeze_after=float(document["freeze_after"]),
        )
        known = datetime.fromisoformat(found.time).tzinfo is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if known else None


def note(state: Path, now: Moment, freeze_after: float) -> None:
    """Write down that the repository was looked at now.

    Raises:
        OSError: the state cannot be written.
    """
    time = now.time.isoformat(timespec="seconds")
    record = Checked(time=time, boot=now.boot, uptime=round(now.uptime, 1), freeze_after=freeze_after)
    state.mkdir(parents=True, exist_ok=True)
    durable.write_file(state / NAME, json.dumps(asdict(record), sort_keys=True).encode() + b"\n")
