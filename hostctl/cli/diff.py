"""``hostctl diff``: what a workload has changed in its root file system since it was started."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import bus

EXAMPLES = """examples:
  hostctl diff site
  hostctl diff site --json

A is added, C changed, D deleted. What a workload wrote outside of volumes is gone with its next start; a read-only one
has changed nothing.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a path; what cannot be printed as it is, is escaped."""
    answer = bus.call("Diff", arguments.workload)
    if arguments.json:
        print(answer)
        return 0
    for change in json.loads(answer):
        path = change["path"]
        print(change["kind"], path if path.isprintable() else path.encode("unicode_escape").decode())
    return 0
