"""``hostctl rmi``: take names of images away, and images with their last name."""

from __future__ import annotations

import argparse
import json

from hostctl.agent import client

EXAMPLES = """examples:
  hostctl rmi nginx:1
  hostctl rmi 3fa1

An image that a generation needs stays, as does one that came with the release.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("image", nargs="+", help="names or ids")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it, one image after the other."""
    untagged, deleted = [], []
    for name in arguments.image:
        said = client.ask("RemoveImage", name)
        untagged += said["untagged"]
        deleted += said["deleted"]
        if not arguments.json:
            for line in [
                *(f"Untagged: {each}" for each in said["untagged"]),
                *map("Deleted: {}".format, said["deleted"]),
            ]:
                print(line)
    if arguments.json:
        print(json.dumps({"untagged": untagged, "deleted": deleted}))
    return 0
