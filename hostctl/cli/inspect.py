"""``hostctl inspect``: everything known of a workload, as JSON."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import overview
from hostctl.agent.machine import SystemdMachine
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl inspect site
  hostctl inspect site | jq .declared.image
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name")
    parser.add_argument("--json", action="store_true", help="errors as JSON too; the document always is")


def run(arguments: argparse.Namespace) -> int:
    """Print the document."""
    layout = HostLayout()
    print(json.dumps(overview.inspect(arguments.workload, layout, SystemdMachine(layout)), indent=1))
    return 0
