"""``hostctl auto-update``: renews the images of workloads that declare it, through the agent; what the timer runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from hostctl.agent.plan import short
from hostctl.cli.tables import table
from hostctl.errors import EXIT_FAILED, EXIT_UNAVAILABLE
from hostctl.layout import HostLayout
from hostctl.progress import Progress
from hostctl.update import hold
from hostctl.update.hold import HeldError

EXAMPLES = """examples:
  hostctl auto-update --dry-run      what the tags stand for now; nothing changes
  hostctl auto-update                what hostctl-auto-update.timer runs every hour
  hostctl auto-update --json | jq -r '.[] | select(.result == "failed") | .cause'

Of each workload with auto_update: true the tag is looked up, and another image under it is taken as a change of the
workload is, with health and the way back. It ends with 1 when an image was taken back because its workload did not
become healthy; it is then not tried again until the tag moves on. It ends with 69 when a registry could not say or give
what was asked, or something else kept an image from being judged, as another required workload that is down or a full
disk: the next run tries it again. It ends with 75 when updates are on hold.
"""

Row = Mapping[str, str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--dry-run", action="store_true", help="only look")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def text(rows: Sequence[Row]) -> str:
    """Return what a terminal shows."""
    if not rows:
        return "no workload declares auto_update"
    cells = [
        (row["workload"], row["reference"], short(row["digest"]), short(row["found"]) or "-", row["result"])
        for row in rows
    ]
    causes = [f"{row['workload']}: {row['cause']}" for row in rows if row["cause"]]
    return "\n".join([table(("WORKLOAD", "IMAGE", "RUNS", "FOUND", "RESULT"), cells), *causes])


def status(rows: Sequence[Row]) -> int:
    """Return the exit status for what came of it."""
    results = {row["result"] for row in rows}
    return EXIT_FAILED if "failed" in results else EXIT_UNAVAILABLE if "unknown" in results else 0


def run(arguments: argparse.Namespace) -> int:
    """Renew, or look.

    Raises:
        HeldError: updates are on hold.
    """
    from hostctl.agent import client  # noqa: PLC0415 - the bus is an import that the help does not need

    held = hold.read(HostLayout().state, datetime.now(UTC))
    if held is not None and not arguments.dry_run:
        raise HeldError(f"updates are {held}", hint="`hostctl hold --release` ends it")
    progress = Progress(quiet=arguments.json)
    rows = client.ask("AutoUpdate", "look" if arguments.dry_run else "", on_progress=progress.line)
    print(json.dumps(rows, indent=1) if arguments.json else text(rows))
    return status(rows)
