"""``hostctl history``: what was updated, blessed, taken back, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

from hostctl.layout import HostLayout
from hostctl.printable import printable
from hostctl.update import history, journal
from hostctl.update.history import Event
from hostctl.update.journal import Line

Row = TypeVar("Row")

EXAMPLES = """examples:
  hostctl history
  hostctl history -n 5 --json | jq '.[].cause'
  hostctl history --stages
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--stages", action="store_true", help="the stages of the updates, with how long each took")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _last(rows: Sequence[Row], count: int | None) -> Sequence[Row]:
    return rows if count is None else rows[max(0, len(rows) - count) :]


def _events(events: Sequence[Event]) -> list[str]:
    lines = []
    for event in events:
        lines.append(f"{event.time}  {event.event:<12} {event.version:<12} {event.cause}".rstrip())
        lines += [f"    {printable(line)}" for line in event.lines]
    return lines


def stage_lines(rows: Sequence[Line]) -> list[str]:
    """Return the journal of the updater for people."""
    lines = []
    for row in rows:
        took = f"{row.seconds:.1f} s" if row.stage else ""
        start = f"{row.time}  {row.version or '-':<12} {row.stage:<10} {row.event:<9} {took:>9}"
        lines.append(f"{start}  {printable(row.cause)}".rstrip())
    return lines


def run(arguments: argparse.Namespace) -> int:
    """Print the events or the stages, oldest first."""
    state = HostLayout().state
    if arguments.stages:
        stages = _last(journal.read(state / "update.jsonl"), arguments.lines)
        said, records = stage_lines(stages), [asdict(row) for row in stages]
    else:
        events = _last(history.read(state / "history.jsonl"), arguments.lines)
        said, records = _events(events), [asdict(event) for event in events]
    print(json.dumps(records, indent=1) if arguments.json else "\n".join(said or ["nothing happened yet"]))
    return 0
