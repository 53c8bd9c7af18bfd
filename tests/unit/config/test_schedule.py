"""When a job runs: what is accepted is what systemd parses and what comes at some time, by this machine's systemd."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product

import pytest

from hostctl.config.schedule import Schedule

GOOD = (
    *("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly"),
    *("3:4", "03:30", "03:30:15", "*:*:*", "*:0/5", "0/15:00", "1..3,5:00", "00/23:00", "12:00:58/1", "0..24/5:00"),
    *("Mon 03:00", "Mon..Fri 22:30", "Fri..Sun,Mon 1:00", "Mon,Mon 1:00", "Tue..Tue 1:00", "Mon..Wed,Fri 3:00"),
    *("*-*-1 03:00", "*-*-1..7,15 00/6:00", "*-*-* 1:00", "*-2-29 1:00", "*-2,4-30 1:00", "*-11/1-31 1:00"),
    *(
        "*-*~1 03:30",
        "*-*~1..3 1:00",
        "*-*~28 1:00",
        "*-*~8/7 1:00",
        "*-*~* 1:00",
        "*-1,3~1,2 1:00",
        "*-*~1..30/27 1:00",
    ),
    *("Sun *-*-1..7 04:00", "Sat *-*~1..7 04:00"),
)
BAD = (
    *("*-*-~1 03:30", "*-~1 03:30", "*-*~1/7 1:00", "*-*~0 1:00", "*-*~29 1:00", "*-*~3..1 1:00", "*-*~28/28 1:00"),
    *("Fri..Mon 03:00", "Sun..Mon 1:00", "Mon..Wed..Fri 1:00", "Mon, Tue 1:00", "Mon,Sat..Mon 1:00"),
    *("24:00", "23:60", "23:59:60", "3..1:00", "0/60:00", "0/24:00", "12:00/0", "*/5:00", "*:59/1", "12:00:59/1"),
    *("*-*-0 1:00", "*-*-32 1:00", "*-*-31/1 1:00", "*-13-1 1:00", "*-12/3-1 1:00", "*-*-*/2 1:00", "*-5..2-1 1:00"),
    *("x", "1:2:3:4", "daily 1:00"),
)
NEVER = ("*-2-30 1:00", "*-4,6-31 1:00", "Mon *-2,9-31 1:00")
"""systemd takes them, and waits for ever."""


def accepted(text: str) -> bool:
    try:
        return str(Schedule(text)) == text
    except ValueError:
        return False


@pytest.mark.parametrize("text", GOOD)
def test_what_comes_at_some_time_is_taken(text: str) -> None:
    assert Schedule(text) == text


@pytest.mark.parametrize("text", [*BAD, *NEVER])
def test_what_would_never_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"calendar| is no |end of the week|never comes"):
        Schedule(text)


def test_a_list_is_as_long_as_systemd_takes_it() -> None:
    assert accepted(f"{','.join(['1'] * 240)}:00")
    assert not accepted(f"{','.join(['1'] * 242)}:00")


def test_a_refusal_says_how_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"'Fri..Mon' goes over the end of the week.*write two ranges"):
        Schedule("Fri..Mon 03:00")
    with pytest.raises(ValueError, match=r"is not a time of the calendar.*'\*-\*~1 23:00'"):
        Schedule("*-*-~1 03:30")
    with pytest.raises(ValueError, match="'29' is no day from the end of a month from 1 to 28"):
        Schedule("*-*~29 03:30")


ITEMS = (
    "0",
    "1",
    "5..5",
    "5..5/2",
    "2..3/5",
    "9..3",
    "7/3",
    "3/7",
    "12/1",
    "28",
    "29",
    "31/1",
    "1..31/30",
    "0..99/50",
    "1,23",
    "*",
    "59/1",
)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd judges")
def test_it_is_exactly_what_systemd_parses_and_comes() -> None:
    made = [form.format(item) for form, item in product(("*-{}-1 1:00", "*-*-{} 1:00", "*-*~{} 1:00"), ITEMS)]
    made += [form.format(item) for form, item in product(("{}:00", "1:{}", "1:00:{}"), ITEMS)]
    for text in (*GOOD, *BAD, *NEVER, *made):
        done = subprocess.run(["systemd-analyze", "calendar", "--", text], capture_output=True, text=True, check=False)
        comes = done.returncode == 0 and "never" not in done.stdout
        assert accepted(text) == comes, (text, done.stdout, done.stderr)
