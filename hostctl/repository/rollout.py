"""Which hosts may take a release yet: a share that grows with time, and a stable place of each host in it.

Pure. A host's place differs from release to release, so that it is not always the same hosts that go first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """How a release reaches its hosts over time."""

    start: datetime
    """With a time zone; to the second."""
    hours: float
    """From the start until ``percent`` is reached; 0 means at once."""
    percent: float
    """Share of the hosts that get it in the end, 0 to 100."""


def share(machine_id: str, name: str, version: str) -> float:
    """Return a host's place in the rollout of a release, from 0 (first) to just under 100.

    Args:
        machine_id: content of ``/etc/machine-id``; white space around it does not count.
        name: image id of the release.
        version: version of the release.
    """
    text = f"{machine_id.strip()}\0{name}\0{version}".encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    # 53 of the 64 bits: the float next to 1 must not round to it, or a host would be left out of 100 %.
    return (number >> 11) / (1 << 53) * 100.0


def percent_at(rollout: Rollout, now: datetime) -> float:
    """Return the share of the hosts, 0 to 100, that may take the release at ``now`` (with a time zone)."""
    elapsed = now - rollout.start
    if elapsed < timedelta(0):
        return 0.0
    whole = timedelta(hours=rollout.hours)
    if elapsed >= whole:
        return rollout.percent
    return rollout.percent * (elapsed / whole)


def included(rollout: Rollout | None, machine_id: str, name: str, version: str, now: datetime) -> bool:
    """Tell whether a host may take a release at ``now``; without a rollout it may."""
    return rollout is None or share(machine_id, name, version) < percent_at(rollout, now)
