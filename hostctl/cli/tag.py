"""``hostctl tag``: give an image a name more."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import client

EXAMPLES = """examples:
  hostctl tag nginx:1 registry.example/web:stable
  hostctl tag 3fa1 site:2
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", help="a name or id")
    parser.add_argument("target", help="the new name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it."""
    said = client.ask("TagImage", arguments.source, arguments.target)
    if arguments.json:
        print(json.dumps(said))
    return 0
