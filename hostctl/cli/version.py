"""``hostctl version``: versions of hostctl and of what it runs on; works on a builder too."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import facts
from hostctl.cli import formats
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl version
  hostctl version --json | jq -r .kernel
  hostctl version --format '{{.Server.Version}}'

fields of --format: those of --json, and .Client.Version .Server.Version, which are hostctl's
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it; see below")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print the versions."""
    found = asdict(facts.versions(HostLayout()))
    if arguments.json:
        print(json.dumps(found, indent=1))
    elif arguments.format is not None:
        own = {"Version": found["hostctl"]}
        print(formats.render(arguments.format, [{"Client": own, "Server": own, **found}]))
    else:
        print("\n".join(f"{name:<8} {value or '-'}" for name, value in found.items()))
    return 0
