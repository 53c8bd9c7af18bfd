"""``hostctl wait``: the exit status of workloads, once they have ended. The kernel tells, nothing is polled."""

from __future__ import annotations

import argparse

from hostctl.agent import unit_control
from hostctl.agent.machine import workload_unit
from hostctl.agent.overview import require
from hostctl.cli import many
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl wait job
  hostctl wait --timeout 60 job other

Prints the exit status of each, as shells do: 128 + number when a signal ended it. Of a workload that does not run it is
that of its last run. It ends with 0 however the workloads ended, and with 1 when one still runs after the timeout.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait so long at most")
    parser.add_argument("workload", nargs="+", help="names")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Wait for all at once."""
    layout = HostLayout()
    keys: dict[str, str] = {}
    for name in arguments.workload:
        record = require(name, layout).record
        keys |= {record.label(key) if record.replicas.get(name) else name: key for key in record.named(name)}

    def ended(name: str) -> int:
        return unit_control.await_end(workload_unit(keys[name]), arguments.timeout)

    return many.each(list(keys), ended, as_json=arguments.json)
