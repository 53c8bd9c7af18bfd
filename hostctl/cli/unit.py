"""``hostctl start``, ``stop`` and ``restart`` of a workload, through the agent."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import client

EXAMPLES = """examples:
  hostctl restart site
  hostctl stop site           until the next start or boot
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="+", help="names")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it, one workload after the other."""
    for name in arguments.workload:
        client.unit(arguments.verb, name)
    if arguments.json:
        print(json.dumps({"done": arguments.verb, "workloads": arguments.workload}))
    return 0
