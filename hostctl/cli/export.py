"""``hostctl export``: a workload's root file system as a tar archive, without what is mounted into it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hostctl.agent import client
from hostctl.cli.output import output
from hostctl.errors import UsageError

EXAMPLES = """examples:
  hostctl export site -o site.tar
  hostctl export site | tar t

Owners are the workload's own numbers. A file is whole, or what was there before stays.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here (default: standard output)")
    parser.add_argument("workload", help="its name")


def run(arguments: argparse.Namespace) -> int:
    """Write the archive."""
    if arguments.output is None:
        if os.isatty(1):
            raise UsageError("an archive is nothing for a terminal", hint="-o FILE, or a pipe")
        sys.stdout.flush()
        client.copy("CopyOut", arguments.workload, "/", "whole", 1)
        return 0
    with output(arguments.output) as file:
        client.copy("CopyOut", arguments.workload, "/", "whole", file.fileno())
    return 0
