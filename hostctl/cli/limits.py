"""``hostctl limits``: what a workload may use, shown, and changed while it runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import bus, limits
from hostctl.agent.machine import workload_unit
from hostctl.agent.overview import require
from hostctl.errors import UsageError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl limits site
  hostctl limits site --memory 256M --cpus 1.5 --pids none
  hostctl limits site --reset             what is declared holds again

This is `docker update`; the verb `update` takes a new release here. What is set holds at once, and until --reset, a
change of the workload in host.yaml, or the next boot: what is to stay is declared there.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--memory", metavar="SIZE", help="most memory, as in 256M, or none")
    parser.add_argument("--cpus", metavar="N", help="processor time in cores, as in 0.5, or none")
    parser.add_argument("--pids", metavar="N", help="most processes and threads, or none")
    parser.add_argument("--reset", action="store_true", help="give up what was set")
    parser.add_argument("workload", help="its name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Change what is asked for, and show what holds."""
    wanted = {name: value for name in ("memory", "cpus", "pids") if (value := getattr(arguments, name)) is not None}
    if wanted and arguments.reset:
        raise UsageError("--reset gives limits up, the others set them")
    # Those of replicas are all the same, unless one was named before.
    unit = workload_unit(require(arguments.workload, HostLayout()).record.key(arguments.workload))
    if arguments.reset:
        bus.call("ResetLimits", arguments.workload)
    elif wanted:
        limits.settings(wanted)  # so that mistakes show before anything is asked of the agent
        bus.call("SetLimits", arguments.workload, json.dumps(wanted))
    found = limits.read(unit)
    if arguments.json:
        print(json.dumps(asdict(found)))
    else:
        note = "  (other than declared)" if found.changed else ""
        print(f"memory {found.memory}  cpus {found.cpus}  pids {found.pids}{note}")
    return 0
