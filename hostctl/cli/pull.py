"""``hostctl pull``: bring an image from its registry, through the agent."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from hostctl.agent import client
from hostctl.cli import many
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError, UsageError
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
    """Let the agent pull, one image after the other; one that fails stops no other."""
    progress = Progress(quiet=arguments.quiet or arguments.json)
    pulled: list[Any] = []
    code = 0
    wanted = [str(reference) for reference in references(arguments.image)]
    for name, image in many.tried(
        wanted, lambda name: client.ask("PullImage", name, on_progress=progress.line), at_once=1
    ):
        if isinstance(image, HostctlError):
            code = code or image.exit_code
            pulled.append(many.failure(name, image))
            if not arguments.json:
                print(image.render(), file=sys.stderr)
            continue
        pulled.append(image)
        if not arguments.json:
            print(image["reference"] if arguments.quiet else f"Digest: {image['digest']}\n{image['reference']}")
    if arguments.json:
        print(json.dumps(pulled))
    return code
