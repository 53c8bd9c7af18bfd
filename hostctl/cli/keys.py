"""``hostctl keys init``: make the keys that sign releases."""

from __future__ import annotations

import argparse
from pathlib import Path

from hostctl.compose.keys import init_keys

EXAMPLES = """examples:
  hostctl keys init keys    make development keys beside release.yaml"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make keys into an empty folder")
    init.add_argument("folder", type=Path, metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Make the keys."""
    init_keys(arguments.folder)
    print(f"{arguments.folder}: keep the files *.key and tuf/*.pem secret")
    return 0
