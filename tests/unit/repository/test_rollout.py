"""Who may take a release yet: stable, spread evenly, growing, and another order for each release."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.repository.rollout import Rollout, included, percent_at, share

START = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
HOSTS = [hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(2000)]


def test_the_place_is_the_documented_hash() -> None:
    digest = hashlib.sha256(b"0123456789abcdef0123456789abcdef\x00edge\x002026.11.1").digest()
    wanted = int.from_bytes(digest[:8], "big") / 2**64 * 100
    place = share("0123456789abcdef0123456789abcdef\n", "edge", "2026.11.1")
    assert place == pytest.approx(wanted, abs=1e-12)
    assert place == share("0123456789abcdef0123456789abcdef", "edge", "2026.11.1")


def test_hosts_are_spread_evenly_and_differently_for_each_release() -> None:
    first = [share(host, "edge", "1") for host in HOSTS]
    second = [share(host, "edge", "2") for host in HOSTS]
    other = [share(host, "core", "1") for host in HOSTS]
    for places in (first, second, other):
        assert 0.45 < sum(place < 50 for place in places) / len(places) < 0.55
    early = [(a < 10, b < 10, c < 10) for a, b, c in zip(first, second, other, strict=True)]
    assert sum(a and b for a, b, _ in early) < 60  # 1 % of 2000 are expected
    assert sum(a and c for a, _, c in early) < 60


@pytest.mark.parametrize(
    ("hours", "percent"),
    [(-1.0, 0.0), (0.0, 0.0), (1.0, 5.0), (12.0, 60.0), (16.0, 80.0), (1000.0, 80.0)],
)
def test_the_share_grows_linearly_to_its_end(hours: float, percent: float) -> None:
    rollout = Rollout(start=START, hours=16.0, percent=80.0)
    assert percent_at(rollout, START + timedelta(hours=hours)) == pytest.approx(percent)


def test_no_hours_mean_at_once() -> None:
    rollout = Rollout(start=START, hours=0.0, percent=25.0)
    assert percent_at(rollout, START - timedelta(seconds=1)) == 0.0
    assert percent_at(rollout, START) == 25.0


def test_nobody_is_in_a_rollout_of_nothing_and_everybody_in_a_whole_one() -> None:
    nothing = Rollout(start=START, hours=0.0, percent=0.0)
    whole = Rollout(start=START, hours=1.0, percent=100.0)
    late = START + timedelta(hours=1)
    assert not any(included(nothing, host, "edge", "1", late) for host in HOSTS)
    assert all(included(whole, host, "edge", "1", late) for host in HOSTS)
    assert all(included(None, host, "edge", "1", START) for host in HOSTS)


@given(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.floats(0, 100),
    st.floats(0, 8760),
    st.floats(-100, 10000),
    st.floats(0, 1000),
)
def test_a_host_that_is_in_stays_in(machine: str, percent: float, hours: float, at: float, later: float) -> None:
    rollout = Rollout(start=START, hours=hours, percent=percent)
    now = START + timedelta(hours=at)
    assert 0 <= share(machine, "edge", "1") < 100
    assert percent_at(rollout, now) <= percent_at(rollout, now + timedelta(hours=later)) <= percent
    if included(rollout, machine, "edge", "1", now):
        assert included(rollout, machine, "edge", "1", now + timedelta(hours=later))
