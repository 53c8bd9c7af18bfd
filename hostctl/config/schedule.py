"""The value type of when a job runs: what is accepted is what systemd parses, and what comes at some time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from hostctl.config.text import Text, quoted

_WORDS = ("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly")
_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAY = f"({'|'.join(_WEEK)})"
_SPAN = rf"{_DAY}(\.\.{_DAY})?"
_DAYS = rf"{_SPAN}(,{_SPAN})*"
_NUMBER = r"[0-9]{1,2}"
_ITEM = rf"{_NUMBER}(\.\.{_NUMBER})?(/{_NUMBER})?"
_ITEMS = rf"(\*|{_ITEM}(,{_ITEM})*)"
_DATE = rf"\*-{_ITEMS}[-~]{_ITEMS}"
_TIME = rf"{_ITEMS}:{_ITEMS}(:{_ITEMS})?"
_MOST_ITEMS = 240  # systemd, CALENDARSPEC_COMPONENTS_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one part of a schedule counts, from ``least`` to ``most``, and from the end if ``backwards``."""

    what: str
    least: int
    most: int
    backwards: bool = False
    shortest: int = 1
    """Numbers that a range without a step has at least."""

    def _item(self, text: str) -> range:
        """Return the numbers of one item, as systemd reads it (calendarspec.c, "normalize_chain", "chain_valid").

        A range ends where its steps lead. Without an end, a step has to lead to one more number at least.
        """
        span, _, written = text.partition("/")
        begin, _, end = span.partition("..")
        start, step = int(begin), int(written or 1)
        if step == 0:
            return range(0)
        if end:
            found = range(start, int(end) + 1, step)
            return found if written or len(found) >= self.shortest else range(0)
        if not written:
            return range(start, start + 1)
        found = range(start, self.least - 1, -step) if self.backwards else range(start, self.most + 1, step)
        return found if len(found) > 1 else range(0)

    def numbers(self, text: str) -> set[int]:
        """Return the numbers of a list of items, or of ``*``, or raise ValueError."""
        if text == "*":
            return set(range(self.least, self.most + 1))
        items = text.split(",")
        if len(items) > _MOST_ITEMS:
            raise ValueError(f"{quoted(text)} has more than {_MOST_ITEMS} items")
        found: set[int] = set()
        for item in items:
            numbers = self._item(item)
            if not numbers or min(numbers[0], numbers[-1]) < self.least or max(numbers[0], numbers[-1]) > self.most:
                raise ValueError(f"{quoted(item)} is no {self.what} from {self.least} to {self.most}")
            found.update(numbers)
        return found


_CLOCK = (
    _Part(what="hour", least=0, most=23),
    _Part(what="minute", least=0, most=59),
    _Part(what="second", least=0, most=59, shortest=2),
)
_MONTH = _Part(what="month", least=1, most=12)
_OF_MONTH = _Part(what="day of a month", least=1, most=31)
_FROM_END = _Part(what="day from the end of a month", least=1, most=28, backwards=True)


class Schedule(Text):
    """When a job runs: `[DAYS] [*-MONTHS-DAYS] HOURS:MINUTES[:SECONDS]`, or daily, weekly and the like.

    As systemd.time(7) has it, cut down: lists with `,`, ranges with `..`, `*`, and steps as in `0/15`. With `~` in
    place of the second `-`, days count from the end of the month: `*-*~1` is its last. A week begins with Mon.
    """

    __slots__ = ()
    PATTERN: ClassVar[str] = rf"{'|'.join(_WORDS)}|({_DAYS} )?({_DATE} )?{_TIME}"
    EXPECTED: ClassVar[str] = "a time of the calendar, as in daily, 'Sat 04:00', '*-*-1 00/6:00' or '*-*~1 23:00'"
    EXAMPLE: ClassVar[str] = "Sat 04:00"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse numbers that no calendar or clock has, weeks that end before they begin, and days that never come."""
        if text in _WORDS:
            return text
        *when, clock = text.split(" ")
        for word in when:
            if word.startswith("*"):
                _check_date(word)
            else:
                _check_week(word)
        for part, numbers in zip(_CLOCK, clock.split(":"), strict=False):
            part.numbers(numbers)
        return text


def _check_week(days: str) -> None:
    for item in days.split(","):
        first, _, last = item.partition("..")
        if last and _WEEK.index(first) > _WEEK.index(last):
            raise ValueError(f"{quoted(item)} goes over the end of the week, which begins with Mon; write two ranges")


def _check_date(date: str) -> None:
    found = re.fullmatch(r"\*-(.*)([-~])(.*)", date)
    assert found is not None  # noqa: S101 - the pattern has it
    months, which, days = found.groups()
    wanted = _MONTH.numbers(months)
    if which == "~":
        _FROM_END.numbers(days)
    elif min(_OF_MONTH.numbers(days)) > max(_MONTHS[month - 1] for month in wanted):
        raise ValueError(f"{quoted(date)} never comes: no such month has such a day")
