"""On which terms a release is offered: what a publisher says, and what follows from it together with what was before.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from hostctl.config.values import ReleaseVersion
from hostctl.config.versions import compare
from hostctl.errors import UsageError
from hostctl.repository.release import Offer
from hostctl.repository.rollout import Rollout

_ROLLOUT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%(?:\s+over\s+([0-9]+(?:\.[0-9]+)?)\s*(h|hours?|d|days?)?)?\s*")
_NONE = "none"
_HOURS = {"h": 1.0, "d": 24.0}
MAX_HOURS = 8760.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a publisher says of an offer. What is not said stays as it was, or is without limits."""

    minimum: str | None = None
    """Oldest version that may update; ``none`` lifts it."""
    rollout: Rollout | None = None
    """A rollout of 100 % at once that has begun lifts it."""


def parse_minimum(text: str) -> str:
    """Read ``--minimum``: a version or ``none``.

    Raises:
        UsageError: it is neither.
    """
    if text == _NONE:
        return text
    try:
        return str(ReleaseVersion.parse(text))
    except ValueError as error:
        raise UsageError(f"--minimum: {text!r} is not a version", details=str(error)) from error


def parse_time(text: str) -> datetime:
    """Read a time in ISO 8601; without a zone it is UTC.

    Raises:
        UsageError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time", hint="as in 2026-11-26T03:00Z") from error
    zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).replace(microsecond=0)


def parse_rollout(text: str, start: datetime) -> Rollout:
    """Read ``--rollout``, as in ``100% over 48h``, ``10% over 2 days`` or ``25%``.

    Args:
        text: what the user wrote.
        start: when it begins.

    Raises:
        UsageError: it is malformed or has no meaning.
    """
    match = _ROLLOUT.fullmatch(text)
    if match is None:
        raise UsageError(f"--rollout: {text!r} is not a rollout", hint='as in "100% over 48h" or "25%"')
    percent = round(float(match[1]), 6)
    hours = round(float(match[2] or 0) * _HOURS[(match[3] or "h")[0]], 6)
    if percent > 100 or hours > MAX_HOURS:
        raise UsageError(f"--rollout: {text!r} is too much", hint="at most 100% over 365 days")
    return Rollout(start=start.replace(microsecond=0), hours=hours, percent=percent)


def offer(before: Offer, terms: Terms, now: datetime) -> Offer:
    """Return the offer that comes of ``terms`` where ``before`` was the offer.

    Raises:
        UsageError: the minimum is newer than the release itself.
    """
    minimum, rollout = before.minimum, before.rollout
    if terms.minimum is not None:
        minimum = None if terms.minimum == _NONE else terms.minimum
    if terms.rollout is not None:
        whole = terms.rollout.percent == 100 and terms.rollout.hours == 0 and terms.rollout.start <= now
        rollout = None if whole else terms.rollout
    if minimum is not None and compare(minimum, before.version) > 0:
        raise UsageError(
            f"no host could update to {before.version} from {minimum} or newer", hint="--minimum names an older version"
        )
    return Offer(
        name=before.name,
        architecture=before.architecture,
        version=before.version,
        minimum=minimum,
        rollout=rollout,
    )
