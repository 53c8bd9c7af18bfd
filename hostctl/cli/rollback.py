"""``hostctl rollback``: go back to the release in the other slot."""

from __future__ import annotations

import argparse
import json
import sys

from hostctl.layout import HostLayout
from hostctl.run import run as run_program
from hostctl.update.machine import this_host
from hostctl.update.rollback import rollback
from hostctl.update.steps import Event, Warned

EXAMPLES = """examples:
  hostctl rollback --reboot
  hostctl rollback --cause "the new kernel drops packets"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--cause", default="asked for", help="what the history says of it")
    parser.add_argument("--reboot", action="store_true", help="reboot into the other release at once")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _warn(event: Event) -> None:
    if isinstance(event, Warned):
        print(f"warning: {event.text}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Make the other release the next boot's."""
    host = this_host(HostLayout())
    version = rollback(host, arguments.cause, _warn)
    if arguments.json:
        print(json.dumps({"running": host.version, "next": version}), flush=True)
    else:
        print(f"the next boot starts release {version}; {host.version} is not taken again", flush=True)
    if arguments.reboot:
        run_program(["systemctl", "reboot"])
    return 0
