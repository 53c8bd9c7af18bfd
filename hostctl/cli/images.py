"""``hostctl images``: the images in the stores of this host."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from hostctl.cli import filters, formats
from hostctl.cli.tables import table
from hostctl.image.details import Details, details, listed
from hostctl.image.lookup import find
from hostctl.image.store import ImageStore, StoredImage
from hostctl.layout import HostLayout

SHORT = 12  # digits of an id that are enough for people
EXAMPLES = """examples:
  hostctl images
  hostctl images nginx:1
  hostctl images --digests --no-trunc
  hostctl images --filter dangling=true -q
  hostctl images --filter 'reference=registry.example/*' --format 'table {{.Repository}}\\t{{.Size}}'
  hostctl images -q
  hostctl images --json

filters: dangling= (true: without a name), reference= with * and ?, label=NAME or NAME=VALUE. Of one kind any may hold.
fields of --format: .Repository .Tag .Digest .ID .CreatedSince .CreatedAt .Size
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
    parser.add_argument(
        "-a", "--all", action="store_true", help="all, which is the default: no image is kept half made"
    )
    filters.configure(parser, FILTERS)
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("--digests", action="store_true", help="show manifests' digests")
    parser.add_argument("--no-trunc", action="store_true", help="do not shorten ids")
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument("--format", metavar="TEMPLATE", help="print each by a template; see below")


FILTERS: Mapping[str, Callable[[tuple[StoredImage, Details], str], bool]] = {
    "dangling": lambda row, wanted: filters.truth(wanted) != bool(row[0].reference),
    "reference": lambda row, wanted: any(filters.matches(name, wanted) for name in _names(row[0].reference)),
    "label": lambda row, wanted: filters.labelled(row[1].labels, wanted),
}


def _parts(reference: str) -> tuple[str, str]:
    """Return repository and tag as Docker shows them."""
    whole = reference.partition("@")[0]
    name, _, tag = whole.rpartition("/")[2].partition(":")
    return whole.removesuffix(f":{tag}") if name else "<none>", tag or "<none>"


def _names(reference: str) -> tuple[str, ...]:
    """Return what a pattern may match: the whole name, and the repository alone."""
    return (reference, _parts(reference)[0]) if reference else ()


def fields(image: StoredImage, known: Details, *, whole: bool = False) -> dict[str, object]:
    """Return what ``--format`` can name, and the columns of the table."""
    repository, tag = _parts(image.reference)
    return {
        "Repository": repository,
        "Tag": tag,
        "Digest": image.digest,
        "ID": image.id if whole else image.id.removeprefix("sha256:")[:SHORT],
        "CreatedSince": age(known.created),
        "CreatedAt": known.created,
        "Size": size(image.bytes),
    }


def text(rows: Sequence[Mapping[str, object]], *, digests: bool) -> str:
    """Return what a terminal shows."""
    columns = ("Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size")
    heads = ("REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE")
    return table(heads, [[str(row[column]) for column in columns] for row in rows])


def run(arguments: argparse.Namespace) -> int:
    """Print one line a name."""
    store = open_store()
    images = store.list()
    if arguments.image:
        wanted = find(store, arguments.image)
        images = tuple(image for image in images if image.digest == wanted.digest)
    known = [(image, details(store, image)) for image in images]
    found = filters.chosen(known, arguments.filter, FILTERS)
    rows = [fields(*each, whole=arguments.no_trunc) for each in found]
    if arguments.json:
        print(json.dumps({"images": listed(store, [image for image, _ in found])}))
    elif arguments.quiet:
        print("".join(f"{each}\n" for each in dict.fromkeys(row["ID"] for row in rows)), end="")
    elif arguments.format is not None:
        print(formats.render(arguments.format, rows))
    else:
        print(text(rows, digests=arguments.digests))
    return 0
