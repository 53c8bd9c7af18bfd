"""What a host is waiting for with its updates, for whoever asks: read from files, in no time, deciding nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from hostctl.layout import HostLayout
from hostctl.update import freshness, hold
from hostctl.update.freshness import Moment

NOTES = "unattended.json"
"""Below the runtime folder, written by :mod:`hostctl.update.unattended`."""
SERVICE = "hostctl-update.service"
"""The unit of an unattended run."""
_MAX_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What comes next, and what is in the way; empty where there is nothing to say."""

    held: str = ""
    """Who holds updates, and why."""
    waits: str = ""
    """What the last unattended run of this boot waits for."""
    problem: str = ""
    """Why its look at the repository failed."""
    silent_since: str = ""
    """The last word from the repository that could be trusted, if that is longer ago than update.freeze_after."""

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Return what a terminal shows, as pairs of a word and a sentence's part."""
        waits = self.held or self.waits
        silent = f"no word that can be trusted since {self.silent_since}" if self.silent_since else ""
        return tuple(
            pair for pair in (("updates", waits), ("repository", self.problem), ("repository", silent)) if pair[1]
        )


def this_moment(layout: HostLayout) -> Moment:
    """Return the time, the boot and its uptime."""
    boot = (layout.root / "proc/sys/kernel/random/boot_id").read_text().strip()
    return Moment(time=datetime.now(UTC), boot=boot, uptime=time.clock_gettime(time.CLOCK_BOOTTIME))


def outlook(layout: HostLayout, now: Moment) -> Outlook:
    """Return what comes next on this host.

    Args:
        layout: where things lie.
        now: this moment.
    """
    held = hold.read(layout.state, now.time)
    waits, problem, looked = _notes(layout)
    checked = freshness.read(layout.state) if looked else None
    return Outlook(
        held=str(held) if held else "",
        waits=waits,
        problem=problem,
        silent_since=checked.time if checked is not None and checked.frozen(now) else "",
    )


def _notes(layout: HostLayout) -> tuple[str, str, bool]:
    """Return what the last run said, its problem, and whether this boot has looked at the repository."""
    try:
        with (layout.runtime / NOTES).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        return str(document["says"]), str(document["problem"]), document["memory"]["checked"] is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", "", False
