"""Updates on hold: placed, read, over, released, damaged; and the verb."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from hostctl.errors import UsageError
from hostctl.update import hold
from hostctl.update.hold import HeldError, Hold, HoldStateError

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
PARTY = Hold(by="ops", reason="release party", time="2026-11-26T11:00:00+00:00")
BERLIN = ZoneInfo("Europe/Berlin")


def test_a_hold_is_there_until_it_is_released(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert hold.read(state, NOW) is None
    hold.require_free(state, NOW)
    hold.place(state, PARTY)
    assert hold.read(state, NOW + timedelta(days=10_000)) == PARTY
    with pytest.raises(HeldError, match="on hold by ops: release party") as caught:
        hold.require_free(state, NOW)
    assert caught.value.exit_code == 75
    assert "hostctl hold --release" in caught.value.hint
    assert hold.release(state)
    assert hold.read(state, NOW) is None
    assert not hold.release(state)


def test_a_hold_with_an_end_is_over_then(tmp_path: Path) -> None:
    until = Hold(by="ops", reason="", time=PARTY.time, until="2026-11-26T14:00:00+02:00")
    hold.place(tmp_path, until)
    assert hold.read(tmp_path, NOW - timedelta(seconds=1)) == until
    assert str(until) == "on hold until 2026-11-26T14:00:00+02:00 by ops"
    assert hold.read(tmp_path, NOW) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"by": 1}',
        b'{"until": "soon"}',
        b'{"by": "a", "until": "2026-11-26T14:00:00"}',
        b"[" * 60_000,
    ],
    ids=["empty", "list", "null", "bytes", "number", "word", "no-zone", "deep"],
)
def test_a_damaged_hold_holds(tmp_path: Path, data: bytes) -> None:
    (tmp_path / hold.NAME).write_bytes(data)
    found = hold.read(tmp_path, NOW)
    assert found is not None
    assert "damaged" in found.reason
    assert hold.release(tmp_path)


def test_a_hold_that_cannot_be_read_holds(tmp_path: Path) -> None:
    (tmp_path / hold.NAME).mkdir()
    found = hold.read(tmp_path, NOW)
    assert found is not None
    assert "cannot be read" in found.reason
    with pytest.raises(HoldStateError):
        hold.release(tmp_path)
    with pytest.raises(HoldStateError):
        hold.place(tmp_path, PARTY)
    assert [path.name for path in tmp_path.iterdir()] == [hold.NAME]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2h", "2026-11-26T14:00:00+00:00"),
        ("1d12h", "2026-11-28T00:00:00+00:00"),
        ("2026-12-24", "2026-12-23T23:00:00+00:00"),
        ("2026-12-24T18:00", "2026-12-24T17:00:00+00:00"),
        ("2026-12-24T18:00Z", "2026-12-24T18:00:00+00:00"),
    ],
)
def test_ends(text: str, until: str) -> None:
    assert hold.parse_until(text, NOW, BERLIN).isoformat() == until


@pytest.mark.parametrize(
    ("text", "words"),
    [("soon", "no time"), ("2x", "unit"), ("999d", "range"), ("2026-11-26", "is over"), ("", "no time")],
)
def test_ends_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hold.parse_until(text, NOW, BERLIN)


def test_the_caller_has_a_name() -> None:
    assert hold.caller()
