"""``hostctl create``: a workload as ``hostctl run`` makes it, which waits for its start."""

from __future__ import annotations

import argparse
import json
import sys

from hostctl.agent import client
from hostctl.cli import run_options
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl create --name cache -p 6379:6379 --memory 64M registry.example/redis:7
  hostctl start run-cache
  hostctl rm cache

host.yaml must have `allow_run: true`. Its image is brought and everything is made ready, so that its start is quick. It
does not start at boot either. Options are those of `hostctl run`; it prints the workload's name.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell of pulling")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    run_options.describe(parser)


def run(arguments: argparse.Namespace) -> int:
    """Let the agent make it, and print its name."""
    wanted = json.dumps(run_options.settings(arguments))
    progress = Progress(quiet=arguments.quiet or arguments.json)
    made = client.ask("Create", arguments.name, wanted, on_progress=progress.line)
    if arguments.json:
        print(json.dumps(made))
        return 0
    for note in made["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(made["workload"])
    return 0
