"""``hostctl rm``: workloads that `hostctl run` made."""

from __future__ import annotations

import argparse

from hostctl.agent import bus
from hostctl.cli import many

MISSING = "run-unknown"

EXAMPLES = """examples:
  hostctl rm cache
  hostctl rm -f run-cache run-tool       one that is not there is no failure

One that runs is stopped first, with -f and without. A workload that host.yaml declares is removed by taking it out of
there.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="+", help="names, with run- or without")
    parser.add_argument("-f", "--force", action="store_true", help="end with 0 although one is not there")
    parser.add_argument("-v", "--volumes", action="store_true", help="taken, and of no effect: no volume is nameless")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _remove(name: str) -> None:
    bus.call("Remove", name)


def run(arguments: argparse.Namespace) -> int:
    """Remove one after the other: each is a change of the declaration in force."""
    missing = (MISSING,) if arguments.force else ()
    return many.each(arguments.workload, _remove, as_json=arguments.json, at_once=1, missing=missing)
