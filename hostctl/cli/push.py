"""``hostctl push``: bring an image to the registry that its name says, through the agent."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import client
from hostctl.cli.pull import references
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl tag nginx:1 registry.example/web:stable
  hostctl push registry.example/web:stable

Layers are those that the image came with, so it keeps its id; they are compressed anew, so its digest may be another.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("image", help="a name")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent push."""
    progress = Progress(quiet=arguments.quiet or arguments.json)
    (reference,) = references([arguments.image])
    pushed = client.ask("PushImage", str(reference), on_progress=progress.line)
    if arguments.json:
        print(json.dumps(pushed))
    elif arguments.quiet:
        print(pushed["reference"])
    else:
        print(f"{reference.tag}: digest: {pushed['digest']}")
    return 0
