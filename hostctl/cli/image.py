"""``hostctl image``: what is known of an image on this host, what nothing needs, and, on a builder, how one is made."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import client
from hostctl.cli.images import age, open_store, size
from hostctl.cli.tables import table
from hostctl.errors import EXIT_FAILED
from hostctl.image import details, lookup
from hostctl.image.store import ImageStore, StoredImage
from hostctl.os_release import identity

BUILDER = "hostctl.cli.image_build"
"""The words that only a builder has."""

EXAMPLES = """examples:
  hostctl image inspect nginx:1           everything known of it, as JSON
  hostctl image history nginx:1           the steps that it was made by
  hostctl image prune                     remove what has no name and is not needed
  hostctl image prune --all               remove whatever no generation needs
  hostctl image verify                    read every layer and compare it with what was pulled"""
if importlib.util.find_spec(BUILDER) is not None:
    EXAMPLES += str(importlib.import_module(BUILDER).EXAMPLES)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    inspect = verbs.add_parser("inspect", help="print everything known of images as JSON")
    inspect.add_argument("image", nargs="+", help="names or ids")
    history = verbs.add_parser("history", help="print the steps that an image was made by")
    history.add_argument("image", help="a name or id")
    history.add_argument("--no-trunc", action="store_true", help="do not shorten the commands")
    prune = verbs.add_parser("prune", help="remove images that nothing needs")
    prune.add_argument("-a", "--all", action="store_true", help="those that have a name as well")
    verify = verbs.add_parser("verify", help="compare layers with what was pulled; exit code 1 if any differs")
    verify.add_argument("image", nargs="*", help="names or ids; all by default")
    for each in (inspect, history, prune, verify):
        each.add_argument("--json", action="store_true", help="print a JSON document")
    if importlib.util.find_spec(BUILDER) is not None:
        importlib.import_module(BUILDER).configure(verbs)


def _inspect(store: ImageStore, names: Sequence[str]) -> int:
    found = [details.described(store, lookup.find(store, name)) for name in names]
    print(json.dumps(found, indent=1))
    return 0


def _history(store: ImageStore, arguments: argparse.Namespace) -> int:
    steps = details.details(store, lookup.find(store, arguments.image)).history[::-1]
    if arguments.json:
        print(json.dumps([asdict(step) for step in steps]))
        return 0
    width = None if arguments.no_trunc else 45
    rows = [(age(step.created), step.created_by[:width], size(step.size), step.comment) for step in steps]
    print(table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), rows))
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    said = client.ask("PruneImages", "all" if arguments.all else "nameless")
    if arguments.json:
        print(json.dumps(said))
        return 0
    for digest in said["deleted"]:
        print(f"Deleted: {digest}")
    print(f"Total reclaimed space: {size(said['bytes'])}")
    return 0


def _verify(store: ImageStore, arguments: argparse.Namespace) -> int:
    images: list[StoredImage] = [lookup.find(store, name) for name in arguments.image] or list(store.list())
    wrong = {image.digest: details.damage(store, image) for image in images}
    if arguments.json:
        print(json.dumps([{"digest": digest, "problems": list(found)} for digest, found in wrong.items()]))
    else:
        names = {image.digest: image.reference or image.digest for image in images}
        for digest, found in wrong.items():
            print(f"{names[digest]}: {'well' if not found else ''}{'; '.join(found)}")
    return EXIT_FAILED if any(wrong.values()) else 0


def run(arguments: argparse.Namespace) -> int:
    """Do what the word says."""
    if arguments.what in ("build", "lock"):
        code: int = importlib.import_module(BUILDER).run(arguments)
        return code
    identity()
    if arguments.what == "prune":
        return _prune(arguments)
    store = open_store()
    if arguments.what == "inspect":
        return _inspect(store, arguments.image)
    return _history(store, arguments) if arguments.what == "history" else _verify(store, arguments)
