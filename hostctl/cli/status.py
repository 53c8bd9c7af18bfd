"""``hostctl status``: the machine in a few lines, read without the agent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import overview
from hostctl.agent.machine import SystemdMachine
from hostctl.cli.tables import duration, table
from hostctl.layout import HostLayout
from hostctl.update import state
from hostctl.update.outlook import Outlook, outlook, this_moment

EXAMPLES = """examples:
  hostctl status
  hostctl status --json | jq .state
  hostctl status --json | jq -r .update.staged
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def text(status: overview.Status, updates: Outlook = Outlook(), stands: Sequence[str] = ()) -> str:  # noqa: B008 - frozen
    """Return what a terminal shows."""
    others = [version for version in status.releases if version != status.release]
    other = f"  (other slot: {', '.join(others)})" if others else ""
    since = f"  of {status.generation_created}" if status.generation else ""
    lines = [
        f"{status.hostname}: {status.state}",
        f"  release     {status.release or 'unknown'}{other}",
        f"  generation  {status.generation or 'none'}{since}",
    ]
    if status.bad:
        lines.insert(2, f"  bad         {', '.join(status.bad)}  (`hostctl history` says why)")
    lines += [f"  update      {sentence}" for sentence in stands]
    lines += [f"  {word:<10}  {said}" for word, said in updates.lines()]
    lines[1:1] = [f"  problem     {problem}" for problem in status.problems]
    if status.workloads:
        rows = [(row.name, row.state, row.health or "-", duration(row.up_for)) for row in status.workloads]
        lines += ["", table(("WORKLOAD", "STATE", "HEALTH", "UP"), rows)]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Print the status."""
    layout = HostLayout()
    status = overview.status(layout, SystemdMachine(layout))
    updates = outlook(layout, this_moment(layout))
    stands = state.read(layout)
    document = {**asdict(status), "update": asdict(stands), "updates": asdict(updates)}
    said = json.dumps(document, indent=1) if arguments.json else text(status, updates, state.sentences(stands))
    print(said)
    return 0
