"""``hostctl ps``: the workloads, read without the agent."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from hostctl.agent import overview
from hostctl.agent.machine import SystemdMachine
from hostctl.agent.overview import WorkloadStatus
from hostctl.cli import filters, formats
from hostctl.cli.tables import duration, table
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl ps
  hostctl ps --filter status=running --filter 'name=web*'
  hostctl ps --filter label=team=shop --latest
  hostctl ps --format 'table {{.Name}}\\t{{.Status}}\\t{{.Ports}}'
  hostctl ps --json
  hostctl ps --quiet          names only

All declared workloads are listed, those that do not run too: -a is the default.
filters: name= and image= with * and ?, label=NAME or NAME=VALUE, health= (healthy, unhealthy, none), status= (running,
paused, restarting, exited, created). Of one kind any may hold, of different kinds all must.
fields of --format: .ID .Name .Names .Image .Digest .State .Status .Health .Ports .Restarts .RunningFor .Pid
"""
FILTERS: Mapping[str, Callable[[WorkloadStatus, str], bool]] = {
    "name": lambda row, wanted: filters.matches(row.name, wanted),
    "image": lambda row, wanted: filters.matches(row.image, wanted),
    "label": lambda row, wanted: filters.labelled(overview.labels(row.name, HostLayout()), wanted),
    "status": lambda row, wanted: row.word == wanted,
    "health": lambda row, wanted: (row.health or "none") == wanted,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-a", "--all", action="store_true", help="those that do not run too, which is the default")
    filters.configure(parser, FILTERS)
    latest = parser.add_mutually_exclusive_group()
    latest.add_argument("-n", "--last", type=int, metavar="N", help="only the N that were started last")
    latest.add_argument("-l", "--latest", action="store_true", help="only the one that was started last")
    parser.add_argument("--no-trunc", action="store_true", help="shorten nothing, as is the default")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print a JSON document")
    shape.add_argument("-q", "--quiet", action="store_true", help="print names only")
    shape.add_argument("--format", metavar="TEMPLATE", help="print each by a template; see below")


def chosen(rows: Sequence[WorkloadStatus], texts: Sequence[str]) -> tuple[WorkloadStatus, ...]:
    """Return the rows that every kind of filter lets through; errors as :func:`filters.chosen`."""
    return filters.chosen(rows, texts, FILTERS)


def newest(rows: Sequence[WorkloadStatus], count: int) -> tuple[WorkloadStatus, ...]:
    """Return those that were started last, the last first; what does not run was started before all others."""
    return tuple(sorted(rows, key=lambda row: row.up_for if row.up_for > 0 else math.inf)[: max(0, count)])


def status(row: WorkloadStatus) -> str:
    """Return the state of a workload in words, as Docker has them."""
    up = f"Up {duration(row.up_for)}" if row.up_for > 0 else "Up"
    words = {"running": up, "paused": f"{up} (paused)", "restarting": f"Restarting ({row.exit_status})"}
    said = words.get(row.word, f"Exited ({row.exit_status})" if row.word == "exited" else row.word.capitalize())
    return f"{said} ({row.health})" if row.health else said


def fields(row: WorkloadStatus) -> dict[str, object]:
    """Return what ``--format`` can name."""
    return {
        "ID": row.name,
        "Name": row.name,
        "Names": row.name,
        "Image": row.image,
        "Digest": row.digest,
        "State": row.word,
        "Status": status(row),
        "Health": row.health,
        "Ports": ", ".join(row.ports),
        "Restarts": row.restarts,
        "RunningFor": duration(row.up_for),
        "Pid": row.main_pid,
    }


def text(rows: Sequence[WorkloadStatus]) -> str:
    """Return what a terminal shows."""
    cells = [(row.name, row.image, status(row), ", ".join(row.ports) or "-", str(row.restarts)) for row in rows]
    return table(("NAME", "IMAGE", "STATUS", "PORTS", "RESTARTS"), cells)


def run(arguments: argparse.Namespace) -> int:
    """Print the workloads."""
    layout = HostLayout()
    rows = chosen(overview.list_workloads(layout, SystemdMachine(layout)), arguments.filter)
    if arguments.latest or arguments.last is not None:
        rows = newest(rows, 1 if arguments.latest else arguments.last)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif arguments.quiet:
        print("".join(f"{row.name}\n" for row in rows), end="")
    elif arguments.format is not None:
        print(formats.render(arguments.format, [fields(row) for row in rows]))
    else:
        print(text(rows))
    return 0
