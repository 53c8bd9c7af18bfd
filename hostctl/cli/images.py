"""``hostctl images``: the images in the stores of this host."""

from __future__ import annotations

import argparse
import json

from hostctl.cli.tables import table
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl images
  hostctl images --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print one line an image."""
    layout = HostLayout()
    images = ImageStore(layout.images, layout.baked_images).list()
    if arguments.json:
        entries = [{"reference": i.reference, "digest": i.digest, "bytes": i.bytes} for i in images]
        print(json.dumps({"images": entries}))
        return 0
    rows = [(i.reference or "-", i.digest[:19], f"{i.bytes / (1 << 20):.1f} MiB") for i in images]
    print(table(("REFERENCE", "DIGEST", "SIZE"), rows))
    return 0
