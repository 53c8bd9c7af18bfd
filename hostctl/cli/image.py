"""``hostctl image``: what is known of an image on this host, what nothing needs, and, on a builder, how one is made."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from dataclasses import asdict

from hostctl.agent import client
from hostctl.cli import actions, formats, images, rmi
from hostctl.cli.images import age, size
from hostctl.cli.tables import table
from hostctl.errors import EXIT_FAILED
from hostctl.image import details, lookup
from hostctl.image.store import ImageStore, StoredImage
from hostctl.os_release import identity

BUILDER = "hostctl.cli.image_build"
"""The words that only a builder has."""

EXAMPLES = """examples:
  hostctl image ls --filter dangling=true
  hostctl image rm nginx:1
  hostctl image inspect nginx:1           everything known of it, as JSON
  hostctl image inspect -f '{{.Id}} {{.Size}}' nginx:1
  hostctl image history nginx:1           the steps that it was made by
  hostctl image prune                     remove what has no name and is not needed
  hostctl image prune --all               remove whatever no generation needs
  hostctl image verify                    read every layer and compare it with what was pulled"""
if importlib.util.find_spec(BUILDER) is not None:
    EXAMPLES += str(importlib.import_module(BUILDER).EXAMPLES)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = actions.add(verbs, "ls", "list images, as `hostctl images`", EXAMPLES)
    images.configure(listing)
    listing.epilog = images.EXAMPLES.replace("hostctl images", listing.prog)
    removing = actions.add(verbs, "rm", "take images away, as `hostctl rmi`", EXAMPLES)
    rmi.configure(removing)
    removing.epilog = rmi.EXAMPLES.replace("hostctl rmi", removing.prog)
    inspect = actions.add(verbs, "inspect", "print everything known of images as JSON", EXAMPLES)
    inspect.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it, by its path")
    inspect.add_argument("image", nargs="+", help="names or ids")
    history = actions.add(verbs, "history", "print the steps that an image was made by", EXAMPLES)
    history.add_argument("image", help="a name or id")
    history.add_argument("--no-trunc", action="store_true", help="do not shorten the commands")
    prune = actions.add(verbs, "prune", "remove images that nothing needs", EXAMPLES)
    prune.add_argument("-a", "--all", action="store_true", help="those that have a name as well")
    prune.add_argument("-f", "--force", action="store_true", help="without asking, as is the default")
    verify = actions.add(verbs, "verify", "compare layers with what was pulled; exit code 1 if any differs", EXAMPLES)
    verify.add_argument("image", nargs="*", help="names or ids; all by default")
    for each in (inspect, history, prune, verify):
        each.add_argument("--json", action="store_true", help="print a JSON document")
    if importlib.util.find_spec(BUILDER) is not None:
        importlib.import_module(BUILDER).configure(verbs)


def _docker(known: dict[str, object]) -> dict[str, object]:
    """Return an image with Docker's keys, and ours beside them."""
    keys = {"Id": "id", "RepoTags": "references", "Created": "created", "Author": "author", "Os": "os"}
    keys |= {"Architecture": "architecture", "Size": "bytes"}
    return {**{theirs: known[ours] for theirs, ours in keys.items()}, **known}


def _inspect(store: ImageStore, arguments: argparse.Namespace) -> int:
    found = [details.described(store, lookup.find(store, name)) for name in arguments.image]
    if arguments.format is not None:
        print(formats.render(arguments.format, [_docker(each) for each in found]))
    else:
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
    wanted: list[StoredImage] = [lookup.find(store, name) for name in arguments.image] or list(store.list())
    wrong = {image.digest: details.damage(store, image) for image in wanted}
    if arguments.json:
        print(json.dumps([{"digest": digest, "problems": list(found)} for digest, found in wrong.items()]))
    else:
        names = {image.digest: image.reference or image.digest for image in wanted}
        for digest, found in wrong.items():
            print(f"{names[digest]}: {'well' if not found else ''}{'; '.join(found)}")
    return EXIT_FAILED if any(wrong.values()) else 0


def run(arguments: argparse.Namespace) -> int:
    """Do what the word says."""
    if arguments.what in ("build", "lock"):
        code: int = importlib.import_module(BUILDER).run(arguments)
        return code
    identity()
    whole = {"ls": images.run, "rm": rmi.run, "prune": _prune}.get(arguments.what)
    if whole is not None:
        return whole(arguments)
    looks = {"inspect": _inspect, "history": _history, "verify": _verify}
    return looks[arguments.what](images.open_store(), arguments)
