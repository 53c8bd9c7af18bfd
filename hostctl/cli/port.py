"""``hostctl port``: which ports of the host lead into a workload."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import overview
from hostctl.agent.inspection import port_bindings
from hostctl.errors import EXIT_FAILED
from hostctl.layout import HostLayout
from hostctl.workload.instance import name_of

EXAMPLES = """examples:
  hostctl port site
  hostctl port site 80/tcp    exit status 1 if that one is not published
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name")
    parser.add_argument("port", nargs="?", metavar="PORT[/PROTOCOL]", help="only this port of the workload")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a published port."""
    stored = overview.require(arguments.workload, HostLayout())
    bindings = port_bindings(overview.published(stored).get(name_of(stored.record.called(arguments.workload)), ()))
    if arguments.port is not None:
        wanted = arguments.port if "/" in arguments.port else f"{arguments.port}/tcp"
        bindings = {port: places for port, places in bindings.items() if port == wanted}
    if arguments.json:
        print(json.dumps(bindings))
    else:
        for port, places in bindings.items():
            for place in places:
                where = f"{place['HostIp']}:{place['HostPort']}"
                print(where if arguments.port is not None else f"{port} -> {where}")
    return EXIT_FAILED if arguments.port is not None and not bindings else 0
