from __future__ import annotations

from pathlib import Path

import pytest
from hostctl_qemu.recording import Mark, Recording

RECORDING = Recording(
    marks=(
        Mark(label="1-2 begin", seconds=1.0, log_bytes=512),
        Mark(label="1-2 root before", seconds=2.0, log_bytes=4096),
        Mark(label="1-2 end", seconds=9.0, log_bytes=90000),
    ),
    samples=((0.0, 512), (2.0, 4096), (3.0, 8192), (9.0, 90000)),
)


def test_the_log_is_as_long_as_it_was_last_seen() -> None:
    assert [RECORDING.at(seconds) for seconds in (-1, 0, 1.9, 2.0, 2.5, 8.9, 9, 99)] == [
        512, 512, 512, 4096, 4096, 8192, 90000, 90000,
    ]  # fmt: skip


def test_random_cuts_are_within_the_update_and_come_from_the_seed() -> None:
    start, end = RECORDING.mark("1-2 begin"), RECORDING.mark("1-2 end")
    cuts = RECORDING.random_cuts(start, end, 500, seed=3)
    assert cuts == RECORDING.random_cuts(start, end, 500, seed=3)
    assert cuts != RECORDING.random_cuts(start, end, 500, seed=4)
    assert all(1.0 <= seconds <= 9.0 and size == RECORDING.at(seconds) for seconds, size in cuts)
    assert 0.6 < sum(seconds >= 3.0 for seconds, _ in cuts) / 500 < 0.9  # three quarters of the time


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    RECORDING.save(tmp_path / "recording.json")
    assert Recording.load(tmp_path / "recording.json") == RECORDING


def test_a_moment_that_did_not_happen_is_an_error() -> None:
    with pytest.raises(KeyError):
        RECORDING.mark("2-9 begin")
    assert [mark.label for mark in RECORDING.between(*RECORDING.marks[:2])] == ["1-2 begin", "1-2 root before"]
