"""What a publisher writes of a rollout or a minimum, and the offer that comes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.errors import UsageError
from hostctl.repository.release import Offer, decode_offer, encode_offer
from hostctl.repository.rollout import Rollout
from hostctl.repository.terms import Terms, offer, parse_minimum, parse_rollout, parse_time

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
PLAIN = Offer(name="edge", architecture="x86-64", version="2")


@pytest.mark.parametrize(
    ("text", "percent", "hours"),
    [
        ("100% over 48h", 100, 48),
        ("100 % over 48 hours", 100, 48),
        ("10% over 2 days", 10, 48),
        ("12.5% over 1.5d", 12.5, 36),
        ("50% over 24", 50, 24),
        ("25%", 25, 0),
        ("0%", 0, 0),
    ],
)
def test_rollouts_as_people_write_them(text: str, percent: float, hours: float) -> None:
    assert parse_rollout(text, NOW) == Rollout(start=NOW, hours=hours, percent=percent)


@pytest.mark.parametrize(
    "text",
    ["", "half", "50", "-1%", "101%", "1e1%", "50% over", "5% over 2 weeks", "5% over 400 days", "nan%", "5%%"],
)
def test_rollouts_without_a_meaning(text: str) -> None:
    with pytest.raises(UsageError, match="--rollout"):
        parse_rollout(text, NOW)


@given(st.decimals(0, 100, places=3), st.decimals(0, 8760, places=3))
def test_every_rollout_that_can_be_written_can_be_signed_and_read(percent: object, hours: object) -> None:
    rollout = parse_rollout(f"{percent}% over {hours}h", NOW)
    assert decode_offer(encode_offer(replace(PLAIN, rollout=rollout))).rollout == rollout


def test_times_have_a_zone() -> None:
    wanted = datetime(2026, 11, 28, 3, tzinfo=UTC)
    for text in ("2026-11-28T03:00Z", "2026-11-28T03:00", "2026-11-28T04:00+01:00", "2026-11-28 03:00:00"):
        assert parse_time(text) == wanted
    with pytest.raises(UsageError, match="not a time"):
        parse_time("tomorrow")


def test_what_is_not_said_stays() -> None:
    rollout = Rollout(start=NOW, hours=1, percent=10)
    before = replace(PLAIN, minimum="1", rollout=rollout)
    assert offer(before, Terms(), NOW) == before
    assert offer(before, Terms(minimum="none"), NOW) == replace(before, minimum=None)
    whole = Rollout(start=NOW, hours=0, percent=100)
    assert offer(before, Terms(rollout=whole), NOW) == replace(before, rollout=None)
    later = replace(whole, start=NOW + timedelta(hours=1))
    assert offer(before, Terms(rollout=later), NOW) == replace(before, rollout=later)


def test_a_minimum_lets_somebody_in() -> None:
    assert offer(PLAIN, Terms(minimum="2"), NOW).minimum == "2"
    with pytest.raises(UsageError, match="could update"):
        offer(PLAIN, Terms(minimum="2.1"), NOW)
    assert parse_minimum("none") == "none"
    with pytest.raises(UsageError, match="--minimum"):
        parse_minimum("a b")
