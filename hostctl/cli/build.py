"""``hostctl build``: compose a release."""

from __future__ import annotations

import argparse
from pathlib import Path

from hostctl.compose.builder import BuildRequest
from hostctl.compose.manifest import to_json
from hostctl.compose.pipeline import build
from hostctl.progress import Progress

EXAMPLES = """\
examples:
  hostctl keys init keys                         make development keys, once
  hostctl lock release.yaml                      pin every package
  hostctl build release.yaml -o build --keys keys
  hostctl build release.yaml -o build --json     print the manifest
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("release", type=Path, metavar="RELEASE.yaml", help="the release to compose")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for what is made")
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="signing keys; default: $HOSTCTL_KEYS, else keys beside RELEASE.yaml"
    )
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="package lock; default: release.lock beside RELEASE.yaml"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest")


def run(arguments: argparse.Namespace) -> int:
    """Compose the release and say where it is."""
    progress = Progress(quiet=False)
    request = BuildRequest(
        release=arguments.release.absolute(),
        output=arguments.output.absolute(),
        keys=arguments.keys.absolute() if arguments.keys else None,
        lock=arguments.lock.absolute() if arguments.lock else None,
    )
    manifest = build(request, progress)
    if arguments.json:
        print(to_json(manifest).decode(), end="")
    else:
        for artifact in manifest.artifacts:
            print(f"{artifact.name:<12} {artifact.bytes / 1048576:9.1f} MiB  {arguments.output / artifact.path}")
    return 0
