"""``hostctl plan``: what applying a declaration would change, and why."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from hostctl.agent import generation, lookups
from hostctl.agent.apply import wanted_actions
from hostctl.agent.machine import release_version
from hostctl.agent.outcome import Action
from hostctl.config.load import parse_host
from hostctl.errors import UsageError
from hostctl.layout import HostLayout
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl plan host.yaml
  hostctl plan - < host.yaml
  hostctl plan --exit-code host.yaml || echo "something would change"

With `pull_policy: always` tags are looked up at their registries, by the agent, which has the passwords: then this is
for root and for declared users with `sudo: true`.
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


def planned(text: str, name: str, layout: HostLayout, progress: Progress) -> tuple[Action, ...]:
    """Return what applying a declaration would do; the agent is asked if registries have to be."""
    declaration, former = parse_host(text, name), generation.current(layout)
    if former is not None and lookups.wanted(declaration):
        from hostctl.agent import client  # noqa: PLC0415 - hardly ever needed

        return client.plan(text, name, progress.line)
    return wanted_actions(declaration, former, release_version(layout.root))


def run(arguments: argparse.Namespace) -> int:
    """Print the actions."""
    actions = planned(*read(arguments.declaration), HostLayout(), Progress(quiet=arguments.json))
    if arguments.json:
        print(json.dumps([asdict(action) for action in actions], indent=1))
    else:
        print("\n".join(str(action) for action in actions) or "nothing would change")
    return 3 if actions and arguments.exit_code else 0
