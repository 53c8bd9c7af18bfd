"""Value types of the update policy: maintenance windows, and the group of a reboot lock.

A window is what systemd calls a calendar expression, cut down to days and a start, with an end or a length added;
systemd has no notation for a span. When one is open is :mod:`hostctl.update.window`'s to say.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import ClassVar

from hostctl.config.quantities import Duration
from hostctl.config.text import Text, quoted

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES = 24 * 60
LONGEST = 7 * 86400.0  # seconds

_DAY = "([Mm]on(day)?|[Tt]ue(sday)?|[Ww]ed(nesday)?|[Tt]hu(rsday)?|[Ff]ri(day)?|[Ss]at(urday)?|[Ss]un(day)?)"
_DAY_RANGE = rf"{_DAY}(\.\.{_DAY})?"
_NUMBERS = r"(\*|[0-9]{1,2}(\.\.[0-9]{1,2})?(,[0-9]{1,2}(\.\.[0-9]{1,2})?)*)"
_TIME = r"[0-9]{1,2}:[0-9]{2}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """When windows start, on the clock on the wall, and how long they last."""

    weekdays: frozenset[int]
    """Days on which they start, Monday is 0."""
    months: frozenset[int]
    days: frozenset[int]
    """Days of the month."""
    start: int
    """In minutes after midnight."""
    length: float
    """In seconds."""
    by_clock: bool
    """The end was written as a time of day, which stays its own when summer time begins or ends in between."""


class Window(Text):
    """Times in which something may be done: `[DAYS] [*-MONTHS-DAYS] HH:MM-HH:MM`, or `+LENGTH` instead of the end.

    DAYS are names of weekdays, with `..` for ranges and `,` between, as in `Mon..Wed,Sat`; MONTHS and DAYS of the month
    are `*` or numbers, with `..` and `,` alike, as in `*-*-1..7`; all as in systemd.time(7). They say when a window
    starts: an end that is not after the start is on the next day, and `24:00` is midnight. LENGTH is a time of up to
    seven days, as in `+1h30m`. Without days it is every day. A start that the change to summer time skips is as much
    later as the clock was advanced, with the same length; a time that occurs twice is the first.
    """

    __slots__ = ()
    PATTERN: ClassVar[str] = (
        rf"({_DAY_RANGE}(,{_DAY_RANGE})* )?(\*-{_NUMBERS}-{_NUMBERS} )?{_TIME}(-{_TIME}|\+[0-9dhms]{{2,40}})"
    )
    EXPECTED: ClassVar[str] = "a window, as in 'Sat 03:00-05:00', 'Mon..Fri 22:00+6h' or 'Sun *-*-1..7 04:00-05:00'"
    EXAMPLE: ClassVar[str] = "Sat 03:00-05:00"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the text with short names of days and times of four digits; refuse what never is or is too long."""
        *when, clock = text.split(" ")
        date = next((word for word in when if word.startswith("*-")), "")
        weekdays = next((word for word in when if not word.startswith("*-")), "")
        span = _span(weekdays, date, clock)
        if not any(day <= calendar.monthrange(2024, month)[1] for month in span.months for day in span.days):
            raise ValueError(f"{quoted(date)} is no day of any year")
        if not 60 <= span.length <= LONGEST:
            raise ValueError(f"{quoted(text)} is {Duration(span.length)} long, which is not from 1m to 7d")
        names = re.sub("[A-Za-z]+", lambda name: name.group()[:3].capitalize(), weekdays)
        start = _clock(span.start)
        end = _clock(_minutes(clock.partition("-")[2])) if span.by_clock else ""
        return " ".join(filter(None, (names, date, f"{start}-{end}" if end else f"{start}+{Duration(span.length)}")))

    @property
    def span(self) -> Span:
        """When it is."""
        *when, clock = self.split(" ")
        date = next((word for word in when if word.startswith("*-")), "")
        weekdays = next((word for word in when if not word.startswith("*-")), "")
        return _span(weekdays, date, clock)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _minutes(text: str) -> int:
    hour, minute = (int(word) for word in text.split(":"))
    if minute > 59 or hour * 60 + minute > DAY_MINUTES:
        raise ValueError(f"{quoted(text)} is no time of day from 00:00 to 24:00")
    return hour * 60 + minute


def _span(weekdays: str, date: str, clock: str) -> Span:
    months, days = date.removeprefix("*-").split("-") if date else ("*", "*")
    separator = "+" if "+" in clock else "-"
    head, _, end = clock.partition(separator)
    start = _minutes(head)
    if start == DAY_MINUTES:
        raise ValueError("a window starts before 24:00; 00:00 is the start of a day")
    if separator == "+":
        length = float(Duration.parse(end))
    else:
        if _minutes(end) == start:
            raise ValueError(f"the window {quoted(clock)} is empty; a whole day is {_clock(start)}+24h")
        length = 60.0 * ((_minutes(end) - start) % DAY_MINUTES or DAY_MINUTES)
    return Span(
        weekdays=_weekdays(weekdays),
        months=_numbers(months, 12, "month"),
        days=_numbers(days, 31, "day of a month"),
        start=start,
        length=length,
        by_clock=separator == "-",
    )


def _weekdays(text: str) -> frozenset[int]:
    if not text:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("..")
        start = DAYS.index(first[:3].capitalize())
        end = DAYS.index((last or first)[:3].capitalize())
        found |= {day % 7 for day in range(start, end + 1 if end >= start else end + 8)}
    return frozenset(found)


def _numbers(text: str, largest: int, what: str) -> frozenset[int]:
    if text == "*":
        return frozenset(range(1, largest + 1))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("..")
        start, end = int(first), int(last or first)
        if not 1 <= start <= end <= largest:
            raise ValueError(f"{quoted(part)} is no {what} from 1 to {largest}")
        found |= set(range(start, end + 1))
    return frozenset(found)


class LockGroup(Text):
    """A group of a FleetLock server, within which its hosts take turns."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z0-9.-]{1,64}"
    EXPECTED: ClassVar[str] = "a group of up to 64 letters, digits, dots and dashes"
    EXAMPLE: ClassVar[str] = "default"
