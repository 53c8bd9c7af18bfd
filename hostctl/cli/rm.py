"""``hostctl rm``: workloads that `hostctl run` made."""

from __future__ import annotations

import argparse

from hostctl.agent import bus
from hostctl.cli import many

EXAMPLES = """examples:
  hostctl rm cache
  hostctl rm run-cache run-tool

A workload that host.yaml declares is removed by taking it out of there.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="+", help="names, with run- or without")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _remove(name: str) -> None:
    bus.call("Remove", name)


def run(arguments: argparse.Namespace) -> int:
    """Remove one after the other: each is a change of the declaration in force."""
    code = 0
    for name in dict.fromkeys(arguments.workload):
        code = many.each([name], _remove, as_json=arguments.json) or code
    return code
