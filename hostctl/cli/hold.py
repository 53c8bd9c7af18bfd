"""``hostctl hold``: keep this host on its release until further notice."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from hostctl.errors import UsageError
from hostctl.layout import HostLayout
from hostctl.run import run as run_program
from hostctl.update import hold
from hostctl.update.outlook import SERVICE

EXAMPLES = """examples:
  hostctl hold --reason "release party"          until `hostctl hold --release`
  hostctl hold --until 2h                        also: 3d, 2026-12-24, 2026-12-24T18:00
  hostctl hold --release
  hostctl hold --status --json | jq -r .held.by

On hold nothing is taken unattended, and a restart that was announced does not come. `hostctl update` refuses with
exit status 75, unless it is given --despite-hold.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--reason", default="", help="what others are told, who wonder why")
    parser.add_argument("--until", metavar="WHEN", help="a time as in 2h, or a date; without it until it is released")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--release", action="store_true", help="end the hold")
    what.add_argument("--status", action="store_true", help="only tell whether updates are on hold")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Hold, release, or tell.

    Raises:
        UsageError: --reason and --until are for a new hold.
    """
    if (arguments.release or arguments.status) and (arguments.reason or arguments.until):
        raise UsageError("--reason and --until are for a new hold")
    state, now = HostLayout().state, datetime.now(UTC)
    said = ""
    if arguments.release:
        said = "updates are taken again" if hold.release(state) else "updates were not on hold"
        _decide_again("start")
    elif not arguments.status:
        _place(arguments, now)
        _decide_again("restart")  # ends a download; it goes on from what is on the disk
    held = hold.read(state, now)
    if arguments.json:
        print(json.dumps({"held": asdict(held) if held else None}))
    else:
        print(said or (f"updates are {held}" if held else "updates are not on hold"))
    return 0


def _place(arguments: argparse.Namespace, now: datetime) -> None:
    if not arguments.reason.isprintable() or len(arguments.reason) > 500:
        raise UsageError("--reason: one line of up to 500 characters")
    zone = datetime.now().astimezone().tzinfo or UTC
    until = hold.parse_until(arguments.until, now, zone) if arguments.until else None
    hold.place(
        HostLayout().state,
        hold.Hold(
            by=hold.caller(),
            reason=arguments.reason,
            time=now.isoformat(timespec="seconds"),
            until=until.isoformat(timespec="seconds") if until else "",
        ),
    )


def _decide_again(verb: str) -> None:
    """Have the unattended update take notice now."""
    run_program(["systemctl", "--no-block", verb, SERVICE], timeout=60)
