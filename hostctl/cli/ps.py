"""``hostctl ps``: the workloads, read without the agent."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import overview
from hostctl.agent.machine import SystemdMachine
from hostctl.cli.tables import duration, table
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl ps
  hostctl ps --json
  hostctl ps --quiet          names only
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print a JSON document")
    shape.add_argument("-q", "--quiet", action="store_true", help="print names only")


def text(rows: tuple[overview.WorkloadStatus, ...]) -> str:
    """Return what a terminal shows."""
    cells = [
        (row.name, row.image, f"{row.state} ({row.sub})", row.health or "-", str(row.restarts), duration(row.up_for))
        for row in rows
    ]
    return table(("NAME", "IMAGE", "STATE", "HEALTH", "RESTARTS", "UP"), cells)


def run(arguments: argparse.Namespace) -> int:
    """Print the workloads."""
    layout = HostLayout()
    rows = overview.list_workloads(layout, SystemdMachine(layout))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif arguments.quiet:
        print("".join(f"{row.name}\n" for row in rows), end="")
    else:
        print(text(rows))
    return 0
