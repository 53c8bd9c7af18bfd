"""``hostctl inspect``: everything known of workloads, as JSON."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import overview
from hostctl.agent.machine import SystemdMachine
from hostctl.cli import formats
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl inspect site
  hostctl inspect site | jq .declared.image
  hostctl inspect -f '{{.State.Pid}}' site
  hostctl inspect -f '{{.NetworkSettings.IPAddress}}' web app

One workload is an object, several are a list. Keys with a capital are those of `docker inspect` with the same meaning;
beside them are status, unit, generation, the declaration and the bundle of the runtime.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="+", help="names")
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it, by its path")
    parser.add_argument("--json", action="store_true", help="errors as JSON too; the document always is")


def run(arguments: argparse.Namespace) -> int:
    """Print the document."""
    layout = HostLayout()
    machine = SystemdMachine(layout)
    found = [overview.inspect(name, layout, machine) for name in arguments.workload]
    if arguments.format is not None:
        print(formats.render(arguments.format, found))
    else:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))
    return 0
