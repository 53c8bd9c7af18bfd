"""What `hostctl update` and `hostctl history` show."""

from __future__ import annotations

import json

import pytest

from hostctl.cli import history as history_cli
from hostctl.cli.update import Lines, Terminal, amount, sentence
from hostctl.update import journal
from hostctl.update.choose import Passed
from hostctl.update.journal import Line
from hostctl.update.stages import AFTER, BEFORE, Stage
from hostctl.update.steps import Event, Progressed, Reached, Warned
from hostctl.update.updater import Outcome

MIB = 1 << 20
HALF = Progressed(stage=Stage.ROOT, bytes=20 * MIB, total=40 * MIB, rate=2.0 * MIB, left=10.04)
EVENTS: tuple[Event, ...] = (
    Reached(stage=Stage.ROOT, edge=BEFORE),
    HALF,
    Warned(text="no delta"),
    Reached(stage=Stage.ROOT, edge=AFTER),
)
STAGED = Outcome(running="1", available="2", staged="2", written=True, path="full", fetched=7)


def test_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for event in EVENTS:
        lines(event)
    lines.outcome(STAGED)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        {"event": "stage", "stage": "root", "edge": "before"},
        {"event": "progress", "stage": "root", "bytes": 20 * MIB, "total": 40 * MIB, "rate": 2 * MIB, "left": 10.0},
        {"event": "warning", "text": "no delta"},
        {"event": "stage", "stage": "root", "edge": "after"},
        {
            "event": "outcome",
            "running": "1",
            "available": "2",
            "staged": "2",
            "written": True,
            "path": "full",
            "fetched": 7,
            "passed": [],
        },
    ]


def test_progress_is_not_told_for_every_piece(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for done in range(1000):
        lines(Progressed(stage=Stage.ROOT, bytes=done, total=999, rate=1.0, left=None))
    told = [json.loads(line)["bytes"] for line in capsys.readouterr().out.splitlines()]
    assert told[0] == 0
    assert told[-1] == 999
    assert len(told) < 20


def test_a_line_a_stage_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for event in EVENTS:
        terminal(event)
    terminal.outcome(STAGED)
    out, err = capsys.readouterr()
    assert out == "release 2 is staged, the next boot tries it\n"
    assert [line.split()[:2] for line in err.splitlines()] == [["warning:", "no"], ["✓", "root"]]
    assert "20.0 MiB" in err


def test_amount() -> None:
    assert amount(HALF) == "50 % of 40.0 MiB, 2.0 MiB/s, 10 s left"
    assert amount(Progressed(stage=Stage.ROOT, bytes=0, total=0, rate=0, left=None)) == "100 % of 0.0 MiB, 0.0 MiB/s"


def test_sentences() -> None:
    passed = (Passed(version="3", why="its rollout has not reached this host yet"),)
    assert sentence(Outcome(running="1")) == "release 1 is the newest for this host"
    assert sentence(Outcome(running="1", available="2")) == "release 2 is available"
    assert sentence(Outcome(running="1", available="2", written=True)).startswith("release 2 is in the other slot")
    assert sentence(Outcome(running="1", passed=passed)) == (
        "release 1 is the newest for this host\nrelease 3 is not taken: its rollout has not reached this host yet"
    )


def test_stages_of_the_history() -> None:
    rows = (
        Line(time="t", event=journal.STARTED, version="2", cause="update from 1"),
        Line(time="t", event=journal.DONE, version="2", stage="root", seconds=12.34),
    )
    assert [line.split() for line in history_cli.stage_lines(rows)] == [
        ["t", "2", "started", "update", "from", "1"],
        ["t", "2", "root", "done", "12.3", "s"],
    ]
