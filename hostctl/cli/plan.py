"""``hostctl plan``: what applying a declaration would change, and why."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from hostctl.agent import generation
from hostctl.agent.apply import wanted_actions
from hostctl.agent.machine import release_version
from hostctl.config.load import parse_host
from hostctl.errors import UsageError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl plan host.yaml
  hostctl plan - < host.yaml
  hostctl plan --exit-code host.yaml || echo "something would change"
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("declaration", help="host.yaml, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--exit-code", action="store_true", help="exit with 3 when something would change")


def read(name: str) -> tuple[str, str]:
    """Return a declaration's text and what to call it.

    Raises:
        UsageError: it cannot be read.
    """
    if name == "-":
        return sys.stdin.read(), "standard input"
    try:
        return Path(name).read_text(encoding="utf-8"), name
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read", details=str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Print the actions."""
    layout = HostLayout()
    declaration = parse_host(*read(arguments.declaration))
    actions = wanted_actions(declaration, generation.current(layout), release_version(layout.root))
    if arguments.json:
        print(json.dumps([asdict(action) for action in actions], indent=1))
    else:
        print("\n".join(str(action) for action in actions) or "nothing would change")
    return 3 if actions and arguments.exit_code else 0
