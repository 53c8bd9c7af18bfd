"""``hostctl pull``: bring an image from its registry, through the agent."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import client
from hostctl.config.values import ImageReference
from hostctl.errors import UsageError
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl pull nginx                         docker.io/library/nginx:latest
  hostctl pull registry.example:5000/site:1
  hostctl pull registry.example/site@sha256:…

Mirrors, certificates and signatures are those of host.yaml, passwords those of `hostctl login`. It ends with 69 when
the registry cannot be reached or refuses.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("image", nargs="+", help="names, by Docker's rules")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the name")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def references(names: list[str]) -> list[ImageReference]:
    """Return what names mean.

    Raises:
        UsageError: one is no name of an image.
    """
    try:
        return [ImageReference(name) for name in names]
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Let the agent pull, one image after the other."""
    progress = Progress(quiet=arguments.quiet or arguments.json)
    pulled = [
        client.ask("PullImage", str(reference), on_progress=progress.line) for reference in references(arguments.image)
    ]
    if arguments.json:
        print(json.dumps(pulled))
        return 0
    for image in pulled:
        if not arguments.quiet:
            print(f"Digest: {image['digest']}")
        print(image["reference"])
    return 0
