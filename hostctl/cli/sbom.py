"""``hostctl sbom``: the bill of materials of a built release."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hostctl.compose.manifest import load_manifest

EXAMPLES = """\
examples:
  hostctl sbom build              one package a line
  hostctl sbom build --json       the SPDX 2.3 document
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("build", type=Path, metavar="DIR", help="output folder of `hostctl build`")
    parser.add_argument("--json", action="store_true", help="print the SPDX document")


def run(arguments: argparse.Namespace) -> int:
    """Print the bill of materials."""
    path = arguments.build / load_manifest(arguments.build).artifact("sbom").path
    text = path.read_text()
    if arguments.json:
        sys.stdout.write(text)
        return 0
    for package in json.loads(text)["packages"]:
        print(f"{package['name']:<36} {package['versionInfo']:<36} {package.get('comment', '')}".rstrip())
    return 0
