"""``hostctl load``: import images from an archive, without a registry."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hostctl.agent import client
from hostctl.errors import UsageError

EXAMPLES = """examples:
  hostctl load -i site.oci.tar
  docker save nginx:1 | ssh root@web-1 hostctl load

Archives of OCI layouts and those of `docker save`, plain, gzip or zstd.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-i", "--input", type=Path, metavar="FILE", help="the archive; standard input by default")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent read the archive."""
    if arguments.input is None and os.isatty(0):
        raise UsageError("an archive is read from standard input, which is a terminal", hint="hostctl load -i FILE")
    try:
        descriptor = 0 if arguments.input is None else os.open(arguments.input, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{arguments.input} cannot be read: {error.strerror}") from error
    loaded = client.ask("LoadImages", descriptors=(descriptor,))
    if arguments.json:
        print(json.dumps(loaded))
    elif not arguments.quiet:
        for image in loaded:
            named = image["reference"]
            print(f"Loaded image: {named}" if named else f"Loaded image ID: {image['id']}")
    return 0
