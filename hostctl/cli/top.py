"""``hostctl top``: the processes of a workload, read from its cgroup without the agent."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import processes
from hostctl.agent.machine import SystemdMachine
from hostctl.cli.tables import duration, table
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl top site
  hostctl top site --json

USER and INSIDE are the user and the process id as the workload sees them, PID is the host's. A process of nobody in the
workload's own range of users has - as its user.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def text(found: tuple[processes.Process, ...]) -> str:
    """Return what a terminal shows."""
    rows = [
        (
            "-" if one.user < 0 else str(one.user),
            str(one.pid),
            str(one.inside),
            str(one.parent),
            one.state,
            f"{one.cpu_seconds:.2f}",
            f"{one.resident / (1 << 20):.1f} MiB",
            duration(one.age),
            one.command if one.command.isprintable() else repr(one.command)[1:-1],
        )
        for one in found
    ]
    return table(("USER", "PID", "INSIDE", "PPID", "STATE", "CPU s", "RSS", "AGE", "COMMAND"), rows)


def run(arguments: argparse.Namespace) -> int:
    """Print the processes."""
    layout = HostLayout()
    found = processes.of_workload(arguments.workload, layout, SystemdMachine(layout))
    print(json.dumps([asdict(one) for one in found], indent=1) if arguments.json else text(found))
    return 0
