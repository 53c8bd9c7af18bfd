"""``hostctl search``: look for images on Docker Hub or in another registry, through the agent."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hostctl.agent import client
from hostctl.cli import filters, formats
from hostctl.cli.tables import table
from hostctl.errors import UsageError

SHORT = 57  # letters of a description that are shown, as by Docker
EXAMPLES = """examples:
  hostctl search nginx
  hostctl search --limit 5 --no-trunc postgres
  hostctl search --filter is-official=true --format '{{.Name}}' redis
  hostctl search --registry registry.example:5000 site
  hostctl search registry.example:5000/site           the same, as Docker writes it

Docker Hub is asked by its own search; of another registry, or its mirrors, the list of images is looked through, which
not every registry shows. It is reached as `hostctl pull` reaches it, passwords included.
fields of --format: .Name .Description .StarCount .IsOfficial
"""


def _stars(image: Mapping[str, Any], wanted: str) -> bool:
    if not wanted.isdecimal():
        raise UsageError(f"--filter stars={wanted}: a number is needed")
    return int(image["stars"]) >= int(wanted)


FILTERS: Mapping[str, Callable[[Mapping[str, Any], str], bool]] = {
    "stars": _stars,
    "is-official": lambda image, wanted: bool(image["official"]) == filters.truth(wanted),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("term", help="a part of the name")
    parser.add_argument("--registry", metavar="HOST", help="host[:port] (default: docker.io)")
    parser.add_argument("--limit", default="25", metavar="N", help="most results, from 1 to 100 (default: 25)")
    parser.add_argument("--no-trunc", action="store_true", help="do not shorten descriptions")
    parser.add_argument("--format", metavar="TEMPLATE", help="print each by a template; see below")
    filters.configure(parser, FILTERS)
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def where(term: str, registry: str | None) -> tuple[str, str]:
    """Return registry and word: a word may begin with a registry, as an image's name does."""
    first, slash, rest = term.partition("/")
    if registry is None and slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return registry or "docker.io", term


def text(images: Sequence[Mapping[str, Any]], *, whole: bool) -> str:
    """Return what a terminal shows."""
    rows = [
        (
            image["name"],
            _shown(image["description"], whole=whole),
            str(image["stars"]),
            "[OK]" if image["official"] else "",
        )
        for image in images
    ]
    return table(("NAME", "DESCRIPTION", "STARS", "OFFICIAL"), rows)


def fields(image: Mapping[str, Any], *, whole: bool) -> dict[str, object]:
    """Return what ``--format`` can name."""
    return {
        "Name": image["name"],
        "Description": _shown(image["description"], whole=whole),
        "StarCount": image["stars"],
        "IsOfficial": image["official"],
    }


def _shown(description: str, *, whole: bool) -> str:
    return description if whole or len(description) <= SHORT else f"{description[: SHORT - 1]}…"


def run(arguments: argparse.Namespace) -> int:
    """Let the agent look, and print what it found; it ends with 0 if that is nothing, too."""
    registry, term = where(arguments.term, arguments.registry)
    found = client.ask("SearchImages", term, registry, arguments.limit)
    rows = filters.chosen(found["images"], arguments.filter, FILTERS)
    if arguments.json:
        print(json.dumps({**found, "images": rows}))
        return 0
    if arguments.format is not None:
        print(formats.render(arguments.format, [fields(row, whole=arguments.no_trunc) for row in rows]))
    else:
        print(text(rows, whole=arguments.no_trunc))
    if not found["complete"]:
        print(f"note: {found['source']} has more images than were looked through", file=sys.stderr)
    return 0
