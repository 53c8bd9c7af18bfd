"""``hostctl info``: this host in numbers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hostctl.agent import facts
from hostctl.agent.facts import Info
from hostctl.agent.machine import SystemdMachine
from hostctl.cli import formats
from hostctl.cli.stats import size
from hostctl.layout import HostLayout

EXAMPLES = """examples:
  hostctl info
  hostctl info --json | jq .counts.running
  hostctl info --format '{{.ContainersRunning}} of {{.Containers}}'

fields of --format: those of --json, and .Name .ServerVersion .Containers .ContainersRunning .ContainersPaused
.ContainersStopped .Images .NCPU .MemTotal .KernelVersion .Architecture .OperatingSystem .OSType .CgroupVersion
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it; see below")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def text(info: Info) -> str:
    """Return what a terminal shows."""
    counts, versions = info.counts, info.versions
    lines = [
        ("Name", info.hostname),
        ("Release", versions.release or "unknown"),
        ("Generation", str(info.generation)),
        ("Workloads", str(counts.workloads)),
        (" Running", str(counts.running)),
        (" Paused", str(counts.paused)),
        (" Stopped", str(counts.stopped)),
        (" Unhealthy", str(counts.unhealthy)),
        ("Images", str(info.images)),
        ("Volumes", str(info.volumes) if info.volumes >= 0 else "unknown (only root may look)"),
        ("Runtime", f"{info.runtime} {versions.crun}".strip()),
        ("Root files", info.root_files),
        ("Cgroup", info.cgroup),
        ("Logs", info.logs),
        ("Kernel", versions.kernel),
        ("systemd", versions.systemd),
        ("Architecture", info.architecture),
        ("CPUs", str(info.processors)),
        ("Memory", size(info.memory)),
        ("State", info.state),
    ]
    return "\n".join(f"{name}: {value}" for name, value in lines)


def docker(info: Info) -> dict[str, object]:
    """Return the host with Docker's keys, and ours beside them."""
    counts, versions = info.counts, info.versions
    return {
        "Name": info.hostname,
        "ServerVersion": versions.hostctl,
        "Containers": counts.workloads,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": info.images,
        "NCPU": info.processors,
        "MemTotal": info.memory,
        "KernelVersion": versions.kernel,
        "Architecture": info.architecture,
        "OperatingSystem": versions.release,
        "OSType": "linux",
        "CgroupVersion": "2",
        **asdict(info),
    }


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    layout = HostLayout()
    info = facts.info(layout, SystemdMachine(layout))
    if arguments.format is not None and not arguments.json:
        print(formats.render(arguments.format, [docker(info)]))
        return 0
    print(json.dumps(asdict(info), indent=1) if arguments.json else text(info))
    return 0
