"""Who holds a restart back, who is at a terminal, and how long the repository has been silent."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import termios
import tty
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hostctl.update import freshness, inhibitors, terminals
from hostctl.update.freshness import Checked, Moment

BLOCKS = ["shutdown:sleep", "backup", "half done", "block", 0, 402]
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
HERE = Moment(time=NOW, boot="boot-1", uptime=1000.0)
DAY = 86400.0


def listed(*rows: list[object]) -> str:
    return json.dumps({"type": "a(ssssuu)", "data": [list(rows)]})


def test_blocks_of_a_shutdown_are_listed_and_nothing_else() -> None:
    others: list[list[object]] = [
        ["sleep", "lid", "closed", "block", 0, 1],
        ["shutdown", "editor", "saving", "delay", 0, 2],
        ["shutdown", "raid", "", "block-weak", 0, 3],
        ["handle-power-key", "shutdown", "shutdown", "block", 0, 4],
        ["shutdown", "evil\x1b[2J\n", "x" * 500, "block", 0, 5],
    ]
    found = inhibitors.parse_logind(listed(BLOCKS, *others))
    assert found[:2] == ("backup (half done)", "raid")
    assert found[2].startswith("evil [2J  (xxx")
    assert len(found) == 3
    assert found[2].isprintable()
    assert len(found[2]) < 300


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"data": [[["shutdown"]]]}', '{"data": [[[1, 2, 3, 4]]]}', "null"])
def test_an_answer_that_makes_no_sense_holds_nothing_back(text: str) -> None:
    assert inhibitors.parse_logind(text) == ()


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_workload_holds_a_restart_back_with_a_lock_and_with_nothing_else(tmp_path: Path, kind: int) -> None:
    assert inhibitors.of_workloads(tmp_path) == ()
    folder = tmp_path / inhibitors.FOLDER
    folder.mkdir()
    for name in ("db", "site"):
        (folder / name).touch()
        (folder / name).chmod(0o444)
    descriptor = os.open(folder / "db", os.O_RDONLY)
    try:
        assert inhibitors.of_workloads(tmp_path) == ()
        fcntl.flock(descriptor, kind)
        assert inhibitors.of_workloads(tmp_path) == ("workload db",)
    finally:
        os.close(descriptor)
    assert inhibitors.of_workloads(tmp_path) == ()


def test_locks_that_are_waited_for_are_none() -> None:
    text = "1: FLOCK  ADVISORY  WRITE 402 00:1a:377 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 7 08:01:12 0 EOF\n3: torn\n"
    assert inhibitors.locked_files(text) == {(0, 0x1A, 377)}


def test_people_are_told_and_what_is_no_terminal_is_not(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    try:
        tty.setraw(terminal)
        (tmp_path / "0").symlink_to(os.ttyname(terminal))
        (tmp_path / "1").write_bytes(b"a file")
        (tmp_path / "ptmx").touch()
        assert len(terminals.in_use(tmp_path)) == 2
        assert terminals.tell("This host restarts.", tmp_path, tmp_path / "console") == 1
        assert os.read(controller, 100) == b"\r\nThis host restarts.\r\n"
        assert (tmp_path / "1").read_bytes() == b"a file"
    finally:
        os.close(controller)
        os.close(terminal)
    assert terminals.in_use(tmp_path / "none") == ()


def test_a_terminal_that_takes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    try:
        termios.tcflow(terminal, termios.TCOOFF)  # as ^S does; one that is only full is emptied by the kernel meanwhile
        (tmp_path / "0").symlink_to(os.ttyname(terminal))
        assert terminals.tell("This host restarts.", tmp_path, tmp_path / "console") == 0
    finally:
        os.close(controller)
        os.close(terminal)


def checked(**changes: object) -> Checked:
    known: dict[str, object] = {"time": NOW.isoformat(), "boot": "boot-1", "uptime": 900.0, "freeze_after": DAY}
    return Checked(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "now", "age"),
    [
        (checked(), HERE, 100.0),
        # The clock jumps within the boot: ten years on, back to 1970.
        (checked(), Moment(time=NOW + timedelta(days=3650), boot="boot-1", uptime=1000.0), 100.0),
        (checked(), Moment(time=datetime(1970, 1, 1, tzinfo=UTC), boot="boot-1", uptime=1000.0), 100.0),
        # Another boot: by the clock, but no less than the boot has lasted.
        (checked(), Moment(time=NOW + timedelta(days=2), boot="boot-2", uptime=60.0), 2 * DAY),
        (checked(), Moment(time=datetime(1970, 1, 1, tzinfo=UTC), boot="boot-2", uptime=60.0), 60.0),
        (checked(), Moment(time=datetime(1970, 1, 1, tzinfo=UTC), boot="boot-2", uptime=2 * DAY), 2 * DAY),
    ],
)
def test_the_age_of_a_look_at_the_repository(record: Checked, now: Moment, age: float) -> None:
    assert record.age(now) == age
    assert record.frozen(now) == (age > DAY)


def test_a_look_is_written_down(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert freshness.read(state) is None
    freshness.note(state, HERE, DAY)
    assert freshness.read(state) == checked(uptime=1000.0)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"time": "soon"}', b'{"time": 1}', b"[" * 4000], ids=range(5))
def test_a_damaged_record_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / freshness.NAME).write_bytes(data)
    assert freshness.read(tmp_path) is None
