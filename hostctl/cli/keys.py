"""``hostctl keys``: the keys that sign releases."""

from __future__ import annotations

import argparse
from pathlib import Path

from hostctl.compose.keys import make_keys

EXAMPLES = """\
examples:
  hostctl keys init keys          a complete set of development keys in the folder keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make a complete set of development keys")
    init.add_argument("folder", type=Path, metavar="DIR", help="new folder")


def run(arguments: argparse.Namespace) -> int:
    """Make the keys and say what they are for."""
    folder: Path = arguments.folder
    make_keys(folder.absolute())
    print(f"{folder}/secure-boot.key   signs boot loader and kernel image; secure-boot/*.auth enrol it")
    print(f"{folder}/verity.key        signs the root hash")
    print(f"{folder}/tuf/              signs the repository; root-*.pem belong offline, root.json goes into the image")
    return 0
