from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.update import journal
from hostctl.update.journal import Journal, Line


def line(stage: str, cause: str = "") -> Line:
    return Line(time="t", event=journal.DONE, version="2", stage=stage, seconds=1.5, bytes=7, cause=cause)


def test_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "state/update.jsonl"
    assert journal.read(path) == ()
    writer = Journal(path)
    writer.add(line("root"))
    with path.open("ab") as file:
        file.write(b'{"event": "done", "st')
    writer.add(line("flush", "because"))
    assert journal.read(path) == (line("root"), line("flush", "because"))


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "update.jsonl"
    path.write_bytes(
        b'[]\n3\n{"event": 1, "time": "t"}\n\xff\n' + b"[" * 100_000 + b'\n{"time":"t","event":"x","new":1}\n'
    )
    assert journal.read(path) == (Line(time="t", event="x"),)


def test_it_stays_small_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "update.jsonl"
    writer = Journal(path)
    path.write_bytes(b"x" * journal.MAX_BYTES)
    for number in range(1500):
        writer.add(line(str(number), "c" * 300))
        assert path.stat().st_size <= journal.MAX_BYTES
    stages = [found.stage for found in journal.read(path)]
    assert stages[-1] == "1499"
    assert stages == [str(number) for number in range(int(stages[0]), 1500)]
    assert not writer.lost


@pytest.mark.parametrize("device", ["/dev/full", "/proc/version"])
def test_what_cannot_be_written_is_lost_with_a_warning(device: str, caplog: pytest.LogCaptureFixture) -> None:
    writer = Journal(Path(device))
    writer.add(line("root"))
    writer.add(line("flush"))
    assert writer.lost
    assert len(caplog.records) == 1
