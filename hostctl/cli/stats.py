"""``hostctl stats``: what workloads use, as a live table. Reads the kernel's files; the agent is not asked."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import usage
from hostctl.agent.machine import SystemdMachine
from hostctl.agent.usage import Figures
from hostctl.cli.tables import table
from hostctl.errors import UsageError
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl stats                     all running workloads, until Ctrl-C
  hostctl stats --no-stream web app
  hostctl stats --no-stream --json
  hostctl stats --interval 5 --json one JSON list a line, for ever

CPU % is of one processor. MEM is without the files that the kernel may forget, as in `docker stats`. The last three
columns are the share of the last ten seconds in which something waited for processor, memory or disk (pressure).
"""
CLEAR = "\x1b[H\x1b[J"
HEADS = ("NAME", "CPU %", "MEM / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS", "P-CPU", "P-MEM", "P-IO")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="*", help="names; all that run by default")
    parser.add_argument("--no-stream", action="store_true", help="print once, after one interval")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="time between two (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON, a list a line")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"


def text(rows: Sequence[Figures]) -> str:
    """Return the table."""
    cells = [
        (
            row.name,
            f"{row.cpu:.2f}%",
            f"{size(row.memory)} / {size(row.memory_limit)}",
            f"{row.memory_percent:.2f}%",
            f"{size(row.usage.received_bytes)} / {size(row.usage.sent_bytes)}",
            f"{size(row.usage.read_bytes)} / {size(row.usage.written_bytes)}",
            str(row.pids),
            *(f"{row.usage.pressure[name].some:.1f}%" for name in ("cpu", "memory", "io")),
        )
        for row in rows
    ]
    return table(HEADS, cells)


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
        print(json.dumps([asdict(row) for row in rows]) if arguments.json else f"{start}{text(rows)}", flush=True)
        if arguments.no_stream:
            return 0
        before = after
