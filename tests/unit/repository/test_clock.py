from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.repository import clock
from hostctl.repository.clock import START, Memory, decode, encode, floor, raised, signing_time, stamp

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
YEARS = timedelta(days=3650)
TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=0)
)


def test_memory_survives_being_written(tmp_path: Path) -> None:
    memory = Memory(proven=NOW, keys="ab", timestamp=7)
    path = clock.memory_file(tmp_path / "state")
    clock.write(path, memory)
    assert clock.read(path) == memory


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"proven": 5}', b'{"timestamp": "x"}', b"[" * 60_000, b"\xff", b"0" * 70_000]
)
def test_broken_memory_is_none(data: bytes, tmp_path: Path) -> None:
    assert decode(data) == Memory()
    assert clock.read(tmp_path / "missing") == Memory()


@given(st.one_of(st.none(), TIMES), st.text(max_size=5), st.integers(min_value=0, max_value=1 << 40))
def test_memory_is_read_as_it_was(proven: datetime | None, keys: str, timestamp: int) -> None:
    memory = Memory(proven=proven, keys=keys, timestamp=timestamp)
    assert decode(encode(memory)) == memory


def test_the_floor_is_the_build_time_without_memory() -> None:
    assert floor(NOW, Memory()) == NOW


def test_the_floor_is_what_was_proven_later() -> None:
    assert floor(NOW - DAY, Memory(proven=NOW)) == NOW
    assert floor(NOW, Memory(proven=NOW - DAY)) == NOW


def test_what_replaced_keys_proved_does_not_count() -> None:
    memory = Memory(proven=NOW + YEARS, keys="stolen")
    assert floor(NOW, memory, "stolen") == NOW + YEARS
    assert floor(NOW, memory, "new") == NOW


def test_a_clock_far_ahead_does_not_raise_the_floor() -> None:
    assert raised(NOW - DAY, NOW + YEARS, NOW) == NOW
    assert raised(NOW - DAY, NOW + YEARS, None) == NOW - DAY


def test_a_clock_in_1970_has_no_say() -> None:
    assert raised(NOW - DAY, START, NOW) == NOW


def test_a_publisher_ahead_of_a_plausible_clock_does_not_raise_the_floor_above_it() -> None:
    assert raised(NOW - DAY, NOW, NOW + YEARS) == NOW


@given(TIMES, TIMES, st.one_of(st.none(), TIMES))
def test_the_floor_never_falls_and_never_rises_above_what_was_signed(
    before: datetime, wall: datetime, signed: datetime | None
) -> None:
    after = raised(before, wall, signed)
    assert after >= before
    assert after == before or (signed is not None and after <= signed)


def test_signing_time_is_read() -> None:
    assert signing_time({clock.SIGNED: stamp(NOW)}, [NOW + DAY]) == NOW


@pytest.mark.parametrize("fields", [{}, {clock.SIGNED: 5}, {clock.SIGNED: "now"}, {clock.SIGNED: ["2026"]}])
def test_no_signing_time(fields: dict[str, object]) -> None:
    assert signing_time(fields, [NOW + DAY]) is None


def test_a_signing_time_after_an_expiry_is_nonsense() -> None:
    assert signing_time({clock.SIGNED: stamp(NOW + YEARS)}, [NOW + 2 * YEARS, NOW + DAY]) is None


def test_release_time_is_that_of_the_image(tmp_path: Path) -> None:
    assert clock.release_time(tmp_path) == START
    path = tmp_path / "usr/lib/os-release"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert clock.release_time(tmp_path) == NOW
