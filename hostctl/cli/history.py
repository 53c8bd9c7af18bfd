"""``hostctl history``: what was updated, blessed, taken back, and why."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.config.problems import printable
from hostctl.layout import HostLayout
from hostctl.update import history

EXAMPLES = """examples:
  hostctl history
  hostctl history -n 5 --json | jq '.[].cause'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N events")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print the events, oldest first."""
    events = history.read(HostLayout().state / "history.jsonl")
    if arguments.lines is not None:
        events = events[max(0, len(events) - arguments.lines) :]
    if arguments.json:
        print(json.dumps([asdict(event) for event in events], indent=1))
        return 0
    for event in events:
        print(f"{event.time}  {event.event:<12} {event.version:<12} {event.cause}".rstrip())
        for line in event.lines:
            print(f"    {printable(line)}")
    if not events:
        print("nothing happened yet")
    return 0
