"""``hostctl rename``: another name for a workload that is not in host.yaml."""

from __future__ import annotations

import argparse
import json
import sys

from hostctl.agent import client

EXAMPLES = """examples:
  hostctl rename cache cache-old
  hostctl rename --json run-cache run-store

A workload's unit, its addresses and its user ids go by its name, so one that runs is started anew under the new one,
from the very image that it ran: as with each start, what it wrote outside of volumes is gone. One that is down stays
so. A workload that host.yaml declares is renamed there.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name, with run- or without")
    parser.add_argument("name", help="the new one")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it."""
    renamed = client.ask("Rename", arguments.workload, arguments.name)
    if arguments.json:
        print(json.dumps(renamed))
    for note in () if arguments.json else renamed["notes"]:
        print(f"note: {note}", file=sys.stderr)
    return 0
