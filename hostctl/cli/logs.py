"""``hostctl logs``: the journal of a workload. Replaces itself by journalctl."""

from __future__ import annotations

import argparse
import os

from hostctl.agent.machine import workload_unit
from hostctl.agent.overview import require
from hostctl.layout import HostLayout
from hostctl.run import CommandNotFoundError

EXAMPLES = """examples:
  hostctl logs site
  hostctl logs site -n 100 --follow
  hostctl logs site --since "10 min ago" --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", help="its name")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing what comes")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--since", metavar="TIME", help="only from this time on, as journalctl takes it")
    parser.add_argument("--json", action="store_true", help="one JSON document a line, with all the journal's fields")


def command(
    workload: str, *, follow: bool = False, lines: int | None = None, since: str | None = None, as_json: bool = False
) -> list[str]:
    """Return the arguments of journalctl(1)."""
    words = ["journalctl", "--no-pager", f"--unit={workload_unit(workload)}"]
    words.append("--output=json" if as_json else "--output=short-iso")
    if follow:
        words.append("--follow")
    if lines is not None:
        words.append(f"--lines={max(0, lines)}")
    if since is not None:
        words.append(f"--since={since}")
    return words


def run(arguments: argparse.Namespace) -> int:
    """Become journalctl."""
    require(arguments.workload, HostLayout())
    words = command(
        arguments.workload,
        follow=arguments.follow,
        lines=arguments.lines,
        since=arguments.since,
        as_json=arguments.json,
    )
    try:
        os.execvp(words[0], words)  # noqa: S606 - an argument list, no shell; journalctl then owns the terminal
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error
