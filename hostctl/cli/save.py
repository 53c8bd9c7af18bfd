"""``hostctl save``: write images to an archive that OCI tools and Docker read."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hostctl.agent import client
from hostctl.cli.output import output
from hostctl.errors import UsageError

EXAMPLES = """examples:
  hostctl save -o site.tar registry.example/site:1
  hostctl save nginx:1 redis:7 | zstd > images.tar.zst

The archive is an OCI layout and what `docker load` reads. An image that came with the release cannot be saved.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("image", nargs="+", help="names or ids")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the archive; standard output by default")
    parser.add_argument("--json", action="store_true", help="print a JSON document; only with --output")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent write the archive; one that could not be written whole leaves what was there."""
    if arguments.output is None:
        if os.isatty(1) or arguments.json:
            raise UsageError("an archive is written to a file or a pipe", hint="hostctl save -o FILE IMAGE")
        client.ask("SaveImages", json.dumps(arguments.image), descriptors=(1,))
        return 0
    with output(arguments.output) as file:
        saved = client.ask("SaveImages", json.dumps(arguments.image), descriptors=(file.fileno(),))
    if arguments.json:
        print(json.dumps(saved))
    return 0
