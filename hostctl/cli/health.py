"""``hostctl health``: runs the declared checks and looks at the required workloads."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import generation, health, parsed, withheld
from hostctl.agent.machine import SystemdMachine
from hostctl.errors import EXIT_FAILED
from hostctl.layout import HostLayout
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl health              once, exit status 1 when anything fails
  hostctl health --wait       until all is well or a check's deadline is over
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--wait", action="store_true", help="wait for each check as long as it may take")
    when.add_argument("--boot", action="store_true", help="wait, and give up a release that is being tried and fails")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def text(report: health.Report) -> str:
    """Return what a terminal shows."""
    lines = [
        f"{'ok  ' if result.ok else 'FAIL'} {result.kind} {result.name}: {result.detail}" for result in report.results
    ]
    lines.append("healthy" if report.healthy else "not healthy")
    return "\n".join(lines)


def _checked(arguments: argparse.Namespace, layout: HostLayout) -> tuple[str, health.Report]:
    progress = Progress(quiet=arguments.json)
    if arguments.boot:
        from hostctl.agent import boot_health, service  # noqa: PLC0415 - only at boot

        context = service.context(layout, notify=progress.line, booting=True)
        return boot_health.check_boot(context, boot_health.real_edge(context.release))
    stored = generation.current(layout)
    if unmet := withheld.problems(layout, stored):
        return "degraded", health.unmet(unmet)
    if stored is None:
        return "healthy", health.Report(results=())
    declaration = parsed.declaration(stored)
    machine = SystemdMachine(layout)
    if arguments.wait:
        report = health.wait(declaration, machine, notify=progress.line, keys=stored.record.keys)
    else:
        report = health.check_once(declaration, machine, tuple(health.required(declaration)), keys=stored.record.keys)
    return "healthy" if report.healthy else "degraded", report


def run(arguments: argparse.Namespace) -> int:
    """Check."""
    verdict, report = _checked(arguments, HostLayout())
    if arguments.json:
        print(json.dumps({"verdict": verdict, "results": [asdict(result) for result in report.results]}, indent=1))
    else:
        print(text(report))
    return 0 if report.healthy else EXIT_FAILED
