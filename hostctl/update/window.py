"""When maintenance windows are open: pure functions of windows, time zone and the time.

Times are aware, in UTC; days and hours of a window are those of its time zone, so that a window keeps its place on the
clock on the wall through changes to and from summer time (:class:`hostctl.config.windows.Window` has the rules).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hostctl.config.windows import LONGEST, Span, Window

SEARCHED = 41 * 366
"""Days that are looked through: a 29th of February on a given weekday comes every 28 years, and once after 40."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """One time in which a window is open, the end excluded."""

    start: datetime
    end: datetime


def _opening(span: Span, day: date, zone: ZoneInfo) -> Opening:
    """Return the opening of a window that starts on ``day``."""
    wall = datetime.combine(day, time(), zone) + timedelta(minutes=span.start)
    start = wall.astimezone(UTC)
    length = timedelta(seconds=span.length)
    skipped = start.astimezone(zone).replace(tzinfo=None) != wall.replace(tzinfo=None)
    end = start + length if skipped or not span.by_clock else (wall + length).astimezone(UTC)
    return Opening(start=start, end=end)


def openings(window: Window, zone: ZoneInfo, now: datetime) -> Iterator[Opening]:
    """Yield the openings of a window that are not over at ``now``, in order; none where it is not found in 41 years."""
    span = window.span
    first = now.astimezone(zone).date() - timedelta(seconds=LONGEST) - timedelta(days=2)
    for offset in range(SEARCHED):
        day = first + timedelta(days=offset)
        if day.weekday() in span.weekdays and day.month in span.months and day.day in span.days:
            opening = _opening(span, day, zone)
            if opening.end > now:
                yield opening


def allowed(windows: Sequence[Window], zone: ZoneInfo, now: datetime, *, jitter: float, share: float) -> Opening | None:
    """Return when this host may restart next: an opening that starts at its own place in a window, or is open now.

    Args:
        windows: any of them will do.
        zone: time zone of the windows.
        now: the time.
        jitter: seconds over which hosts are spread, at most half of the window.
        share: this host's place among them, from 0 to 1.

    Returns:
        the opening with the earliest start, which is not after ``now`` when the host may restart now; none if no
        window ever opens again.
    """
    found = []
    for window in windows:
        opening = next(openings(window, zone, now), None)
        if opening is not None:
            spread = min(timedelta(seconds=jitter), (opening.end - opening.start) / 2)
            found.append(Opening(start=opening.start + spread * share, end=opening.end))
    return min(found, key=lambda opening: (max(opening.start, now), -opening.end.timestamp()), default=None)
