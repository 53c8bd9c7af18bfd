"""``hostctl images``: the images in the stores of this host."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from hostctl.cli.tables import table
from hostctl.image.details import details, listed
from hostctl.image.lookup import find
from hostctl.image.store import ImageStore, StoredImage
from hostctl.layout import HostLayout

SHORT = 12  # digits of an id that are enough for people
EXAMPLES = """examples:
  hostctl images
  hostctl images nginx:1
  hostctl images --digests --no-trunc
  hostctl images -q
  hostctl images --json
"""
_UNITS = (("year", 31536000), ("month", 2592000), ("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60))


def open_store() -> ImageStore:
    """Return the stores of this host, for reading."""
    layout = HostLayout()
    return ImageStore(layout.images, layout.baked_images)


def size(count: float) -> str:
    """Return bytes as Docker prints them: three digits, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}TB"


def age(created: str) -> str:
    """Return how long ago a time was (RFC 3339); N/A where there is none."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return "N/A"
    seconds = (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s ago"
    return "a minute ago" if seconds >= 0 else "N/A"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("image", nargs="?", help="a name or id; all by default")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("--digests", action="store_true", help="show manifests' digests")
    parser.add_argument("--no-trunc", action="store_true", help="do not shorten ids")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _row(image: StoredImage, created: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    name, _, tag = image.reference.partition("@")[0].rpartition("/")[2].partition(":")
    repository = image.reference.partition("@")[0].removesuffix(f":{tag}") if name else "<none>"
    shown = image.id if arguments.no_trunc else image.id.removeprefix("sha256:")[:SHORT]
    digest = (image.digest,) if arguments.digests else ()
    return (repository, tag or "<none>", *digest, shown, age(created), size(image.bytes))


def run(arguments: argparse.Namespace) -> int:
    """Print one line a name."""
    store = open_store()
    images = store.list()
    if arguments.image:
        wanted = find(store, arguments.image)
        images = tuple(image for image in images if image.digest == wanted.digest)
    if arguments.json:
        print(json.dumps({"images": listed(store, images)}))
    elif arguments.quiet:
        for each in dict.fromkeys(image.id for image in images):
            print(each if arguments.no_trunc else each.removeprefix("sha256:")[:SHORT])
    else:
        heads = ("REPOSITORY", "TAG", *(["DIGEST"] if arguments.digests else []), "IMAGE ID", "CREATED", "SIZE")
        print(table(heads, [_row(image, details(store, image).created, arguments) for image in images]))
    return 0
