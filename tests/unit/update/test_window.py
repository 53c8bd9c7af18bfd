"""Maintenance windows: when they are open, through midnight, months and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.config.windows import DAYS, Window
from hostctl.update.window import Opening, allowed, openings

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: summer time from 29 March 02:00 to 25 October 03:00
ZONES = [
    BERLIN,
    ZoneInfo("UTC"),
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),
    ZoneInfo("Asia/Kolkata"),
]
WALL = "%a %Y-%m-%d %H:%M"


def local(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def shown(opening: Opening, zone: ZoneInfo = BERLIN) -> tuple[str, str, float]:
    start, end = (moment.astimezone(zone).strftime(WALL) for moment in (opening.start, opening.end))
    return start, end, (opening.end - opening.start).total_seconds() / 3600


@pytest.mark.parametrize(
    ("window", "now", "start", "end", "hours"),
    [
        ("Sat 03:00-05:00", "2026-11-26 12:00", "Sat 2026-11-28 03:00", "Sat 2026-11-28 05:00", 2),
        ("Sat 03:00-05:00", "2026-11-28 04:59", "Sat 2026-11-28 03:00", "Sat 2026-11-28 05:00", 2),
        ("Sat 03:00-05:00", "2026-11-28 05:00", "Sat 2026-12-05 03:00", "Sat 2026-12-05 05:00", 2),
        ("03:00-05:00", "2026-11-28 05:00", "Sun 2026-11-29 03:00", "Sun 2026-11-29 05:00", 2),
        # Through midnight: the day is that of the start.
        ("Fri 22:00-04:00", "2026-11-28 03:59", "Fri 2026-11-27 22:00", "Sat 2026-11-28 04:00", 6),
        ("Fri 22:00-04:00", "2026-11-29 00:00", "Fri 2026-12-04 22:00", "Sat 2026-12-05 04:00", 6),
        ("Sun 22:00-24:00", "2026-11-26 12:00", "Sun 2026-11-29 22:00", "Mon 2026-11-30 00:00", 2),
        ("Fri 20:00+2d", "2026-11-29 12:00", "Fri 2026-11-27 20:00", "Sun 2026-11-29 20:00", 48),
        ("Sat *-*-1..7 04:00-05:00", "2026-11-26 12:00", "Sat 2026-12-05 04:00", "Sat 2026-12-05 05:00", 1),
        ("*-1,7-1 00:00-01:00", "2026-02-01 12:00", "Wed 2026-07-01 00:00", "Wed 2026-07-01 01:00", 1),
        ("Sat *-2-29 00:00-01:00", "2026-02-01 12:00", "Sat 2048-02-29 00:00", "Sat 2048-02-29 01:00", 1),
        # Summer time begins: 02:00 is 03:00.
        ("01:30-02:30", "2026-03-29 00:00", "Sun 2026-03-29 01:30", "Sun 2026-03-29 03:30", 1),
        ("02:15-02:45", "2026-03-29 00:00", "Sun 2026-03-29 03:15", "Sun 2026-03-29 03:45", 0.5),
        ("02:59-03:05", "2026-03-29 00:00", "Sun 2026-03-29 03:59", "Sun 2026-03-29 04:05", 0.1),
        ("Sat 22:00-04:00", "2026-03-28 12:00", "Sat 2026-03-28 22:00", "Sun 2026-03-29 04:00", 5),
        ("Sat 22:00+6h", "2026-03-28 12:00", "Sat 2026-03-28 22:00", "Sun 2026-03-29 05:00", 6),
        # Summer time ends: 03:00 is 02:00 again.
        ("Sat 22:00-04:00", "2026-10-24 12:00", "Sat 2026-10-24 22:00", "Sun 2026-10-25 04:00", 7),
        ("Sat 22:00+6h", "2026-10-24 12:00", "Sat 2026-10-24 22:00", "Sun 2026-10-25 03:00", 6),
        ("02:30-03:30", "2026-10-25 00:00", "Sun 2026-10-25 02:30", "Sun 2026-10-25 03:30", 2),
        ("02:15-02:45", "2026-10-25 00:00", "Sun 2026-10-25 02:15", "Sun 2026-10-25 02:45", 0.5),
    ],
)
def test_the_next_opening(window: str, now: str, start: str, end: str, hours: float) -> None:
    opening = next(openings(Window(window), BERLIN, local(now)))
    assert shown(opening) == (start, end, hours)


def test_a_time_zone_moves_the_window() -> None:
    opening = next(openings(Window("Sat 03:00-05:00"), ZoneInfo("Asia/Kolkata"), local("2026-11-26 12:00")))
    assert opening.start == datetime(2026, 11, 27, 21, 30, tzinfo=UTC)


def test_a_window_open_when_the_repeated_hour_comes_back_stays_shut_for_the_second_one() -> None:
    second = local("2026-10-25 02:30").replace(tzinfo=UTC) + timedelta(hours=1)
    assert second.astimezone(BERLIN).strftime("%H:%M") == "02:30"
    assert next(openings(Window("02:15-02:45"), BERLIN, second)).start > second


def test_a_day_that_never_comes_in_the_searched_years_opens_nothing() -> None:
    every_28 = Window("Sat *-2-29 00:00-01:00")
    assert next(openings(every_28, BERLIN, local("2048-03-01 00:00")), None) is not None
    assert next(openings(every_28, BERLIN, local("2088-03-01 00:00")), None) is not None  # over 2100, which has none


@pytest.mark.parametrize(
    ("now", "share", "jitter", "start"),
    [
        ("2026-11-26 12:00", 0.0, 600, "Sat 2026-11-28 03:00"),
        ("2026-11-26 12:00", 0.5, 600, "Sat 2026-11-28 03:05"),
        ("2026-11-26 12:00", 0.5, 86400, "Sat 2026-11-28 03:30"),  # no more than half of the window
        ("2026-11-28 04:30", 0.5, 86400, "Sat 2026-11-28 03:30"),
    ],
)
def test_a_place_in_the_window(now: str, share: float, jitter: float, start: str) -> None:
    opening = allowed((Window("Sat 03:00-05:00"),), BERLIN, local(now), jitter=jitter, share=share)
    assert opening is not None
    assert shown(opening)[0] == start


def test_any_of_several_windows_will_do() -> None:
    windows = (Window("Sat 03:00-05:00"), Window("Thu 12:00-14:00"), Window("Thu 11:00-18:00"))
    opening = allowed(windows, BERLIN, local("2026-11-26 13:00"), jitter=0, share=0.9)
    assert opening is not None
    assert shown(opening)[:2] == ("Thu 2026-11-26 11:00", "Thu 2026-11-26 18:00")
    assert allowed((), BERLIN, local("2026-11-26 13:00"), jitter=0, share=0) is None


clock = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    lambda days, start, length: Window(f"{','.join(days)} {start}+{length}m"),
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=3),
    clock,
    st.integers(1, 7 * 24 * 60),
) | st.builds(lambda start, end: Window(f"{start}-{end}" if start != end else f"{start}+1h"), clock, clock)
moments = st.datetimes(datetime(2025, 1, 1), datetime(2029, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))


@given(windows, st.sampled_from(ZONES), moments)
def test_openings_come_in_order_on_their_days_and_are_never_empty(
    window: Window, zone: ZoneInfo, now: datetime
) -> None:
    found = list(islice(openings(window, zone, now), 5))
    assert len(found) == 5
    assert found[0].end > now
    assert all(earlier.start < later.start for earlier, later in pairwise(found))
    for opening in found:
        start = opening.start.astimezone(zone)
        assert opening.end > opening.start
        assert start.weekday() in window.span.weekdays
        off = abs((opening.end - opening.start).total_seconds() - window.span.length)
        assert off <= (3600 if window.span.by_clock else 0)
        minutes = start.hour * 60 + start.minute
        assert minutes == window.span.start or start.utcoffset() != (start - timedelta(hours=2)).utcoffset()


@given(windows, st.sampled_from(ZONES), moments, st.floats(0, 1, exclude_max=True), st.integers(0, 86400))
def test_what_is_allowed_is_in_an_opening(
    window: Window, zone: ZoneInfo, now: datetime, share: float, jitter: int
) -> None:
    found = allowed((window,), zone, now, jitter=jitter, share=share)
    first = next(openings(window, zone, now))
    assert found is not None
    assert first.start <= found.start < found.end == first.end
    assert found.start - first.start <= timedelta(seconds=jitter)


@given(windows)
def test_canonical_text_means_the_same(window: Window) -> None:
    assert Window(str(window)) == window
    assert Window(str(window)).span == window.span
