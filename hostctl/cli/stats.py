"""``hostctl stats``: what workloads use, as a live table. Reads the kernel's files; the agent is not asked."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import generation, usage
from hostctl.agent.cgroups import Usage
from hostctl.agent.machine import SystemdMachine
from hostctl.agent.usage import Figures
from hostctl.cli import formats
from hostctl.cli.tables import table
from hostctl.errors import UsageError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl stats                     all running workloads, until Ctrl-C
  hostctl stats --no-stream web app
  hostctl stats --no-stream --json
  hostctl stats --no-stream --format '{{.Name}}: {{.CPUPerc}} {{.MemUsage}}'
  hostctl stats --interval 5 --json one JSON list a line, for ever

CPU % is of one processor. MEM is without the files that the kernel may forget, as in `docker stats`. The last three
columns are the share of the last ten seconds in which something waited for processor, memory or disk (pressure).
fields of --format: .Name .Container .ID .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs
"""
CLEAR = "\x1b[H\x1b[J"
COLUMNS = ("Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
HEADS = ("NAME", "CPU %", "MEM / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS", "P-CPU", "P-MEM", "P-IO")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="*", help="names; all that run by default")
    parser.add_argument("--no-stream", action="store_true", help="print once, after one interval")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="time between two (default: 1)")
    parser.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    parser.add_argument("--no-trunc", action="store_true", help="shorten nothing, as is the default")
    parser.add_argument("--format", metavar="TEMPLATE", help="print each by a template; see below")
    parser.add_argument("--json", action="store_true", help="print JSON, a list a line")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"


def fields(row: Figures) -> dict[str, object]:
    """Return what ``--format`` can name, and most columns of the table."""
    return {
        "Name": row.name,
        "Container": row.name,
        "ID": row.name,
        "CPUPerc": f"{row.cpu:.2f}%",
        "MemUsage": f"{size(row.memory)} / {size(row.memory_limit)}",
        "MemPerc": f"{row.memory_percent:.2f}%",
        "NetIO": f"{size(row.usage.received_bytes)} / {size(row.usage.sent_bytes)}",
        "BlockIO": f"{size(row.usage.read_bytes)} / {size(row.usage.written_bytes)}",
        "PIDs": row.pids,
    }


def text(rows: Sequence[Figures]) -> str:
    """Return the table."""
    cells = [
        (
            *(str(fields(row)[each]) for each in COLUMNS),
            *(
                f"{row.usage.pressure[name].some:.1f}%" if row.usage.pressure else "-"
                for name in ("cpu", "memory", "io")
            ),
        )
        for row in rows
    ]
    return table(HEADS, cells)


def everything(layout: HostLayout) -> list[str]:
    """Return what all workloads are shown as, replicas by themselves."""
    stored = generation.current(layout)
    names = sorted(stored.record.images) if stored else []
    return [stored.record.label(key) for name in names if stored for key in stored.record.keys(name)]


def with_others(rows: Sequence[Figures], names: Sequence[str]) -> tuple[Figures, ...]:
    """Return the rows with those of ``names`` that do not run, which use nothing."""
    known = {row.name: row for row in rows}
    nothing = {"cpu": 0.0, "memory": 0, "memory_limit": 0, "memory_percent": 0.0, "pids": 0}
    idle = {name: Figures(name=name, usage=Usage(), **nothing) for name in names}  # type: ignore[arg-type]  # as named
    return tuple(row for _, row in sorted({**idle, **known}.items()))


def shown(rows: Sequence[Figures], arguments: argparse.Namespace) -> str:
    """Return what is printed of one moment."""
    if arguments.json:
        return json.dumps([asdict(row) for row in rows])
    if arguments.format is not None:
        return formats.render(arguments.format, [fields(row) for row in rows])
    return text(rows)


def run(arguments: argparse.Namespace) -> int:
    """Print once or for ever."""
    if not 0.1 <= arguments.interval <= 3600:
        raise UsageError(f"--interval {arguments.interval:g}: from 0.1 to 3600 seconds")
    layout = HostLayout()
    machine, memory = SystemdMachine(layout), usage.host_memory()
    before = usage.sample(usage.running(layout, machine, arguments.workload))
    start = CLEAR if sys.stdout.isatty() and not arguments.json and not arguments.no_stream else ""
    while True:
        time.sleep(arguments.interval)
        after = usage.sample(usage.running(layout, machine, arguments.workload))
        rows = usage.figures(before, after, memory)
        if arguments.all:
            rows = with_others(rows, arguments.workload or everything(layout))
        print(f"{start}{shown(rows, arguments)}", flush=True)
        if arguments.no_stream:
            return 0
        before = after
