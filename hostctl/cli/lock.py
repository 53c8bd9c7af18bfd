"""``hostctl lock``: pin every package of a release."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hostctl.compose.lock import NAME, cache_folder, format_lock, make_lock
from hostctl.compose.packages import fetch_packages
from hostctl.config.load import load_release
from hostctl.durable import write_file
from hostctl.errors import UsageError
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl lock release.yaml            write release.lock beside it
  hostctl lock release.yaml --fetch    and bring the packages into the cache
  hostctl lock release.yaml --without-security -o point.lock
                                       the suite as its last point release left it"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("release", type=Path, metavar="RELEASE.yaml")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"default: {NAME} beside RELEASE.yaml")
    parser.add_argument(
        "--without-security", action="store_true", help="leave out the suite's updates and security updates"
    )
    parser.add_argument("--fetch", action="store_true", help="bring the packages into the cache as well")


def run(arguments: argparse.Namespace) -> int:
    """Resolve, write, and perhaps fetch."""
    progress = Progress()
    release = load_release(arguments.release)
    output = arguments.output or arguments.release.with_name(NAME)
    if not os.access(output.parent, os.W_OK | os.X_OK):  # said before what takes long
        raise UsageError(f"{output} cannot be written", hint="-o names a file in a folder that is there and yours")
    with progress.stage("resolve packages"):
        lock = make_lock(release, security=not arguments.without_security)
    write_file(output, format_lock(lock).encode())
    if arguments.fetch:
        with progress.stage("fetch packages"):
            fetch_packages((*lock.host, *lock.kernel, *lock.tools), cache_folder())
    return 0
