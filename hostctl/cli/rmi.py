"""``hostctl rmi``: take names of images away, and images with their last name."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from hostctl.agent import client
from hostctl.cli import many
from hostctl.errors import HostctlError

MISSING = "image-unknown"

EXAMPLES = """examples:
  hostctl rmi nginx:1
  hostctl rmi 3fa1
  hostctl rmi -f 3fa1 old:1    an image with all of its names; one that is not there is no failure

An image that a generation needs stays, as does one that came with the release, with -f too. One that fails stops no
other.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "-f", "--force", action="store_true", help="an id with all of its names; end with 0 without any"
    )
    parser.add_argument("--no-prune", action="store_true", help="taken, and of no effect: no image keeps another")
    parser.add_argument("image", nargs="+", help="names or ids")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _remove(name: str) -> Any:  # noqa: ANN401 - the agent's document
    return client.ask("RemoveImage", name)


def _remove_all(name: str) -> Any:  # noqa: ANN401 - as above
    """Remove an image with all of its names, if it is named by an id."""
    from hostctl.cli.images import open_store  # noqa: PLC0415 - only for --force
    from hostctl.image import lookup  # noqa: PLC0415 - as above

    store = open_store()
    image = lookup.find(store, name)
    names = [each for each, digest in store.names().items() if digest == image.digest]
    gone = [_remove(each) for each in ([name] if lookup.is_named(image, name) else names or [name])]
    return {key: [each for said in gone for each in said[key]] for key in ("untagged", "deleted")}


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it, one image after the other."""
    done: dict[str, list[Any]] = {"untagged": [], "deleted": [], "failed": []}
    code = 0
    for name, said in many.tried(arguments.image, _remove_all if arguments.force else _remove, at_once=1):
        if isinstance(said, HostctlError):
            code = code or (0 if arguments.force and said.id == MISSING else said.exit_code)
            done["failed"].append(many.failure(name, said))
            if not arguments.json:
                print(said.render(), file=sys.stderr)
            continue
        done["untagged"] += said["untagged"]
        done["deleted"] += said["deleted"]
        for word, key in (("Untagged", "untagged"), ("Deleted", "deleted")):
            for each in () if arguments.json else said[key]:
                print(f"{word}: {each}", flush=True)
    if arguments.json:
        print(json.dumps(done))
    return code
