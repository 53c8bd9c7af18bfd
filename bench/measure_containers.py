"""Containers under hostctl, Podman and Docker: `bench/containers [--json] [--rounds N] [--count N]`.

Inside one machine, one after the other, from one image: the start of a container until its published port answers, of
many at once until all of them answer, the memory of what stays beside them, and the import of an archive with one layer
of 250 MB. Podman is measured by its Quadlets and by `podman run`. Every container has an address on a bridge, a
published port, a read-only root and the engine's own profile of system calls; ours have a user namespace as well, which
the others, run by root, do not make.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass

from hostctl_qemu.machine import Machine

from bench import engines, figures, hosts

SECONDS = 4 * 3600.0
MEMORY_MIB = 4096
MB = 1_000_000
OURS = "hostctl"
Found = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One thing that is measured: its name among the ratios, and how much ours may be of the better of the others."""

    name: str
    text: str
    unit: str
    target: float | None
    divisor: float = 1.0


def kinds(count: int) -> dict[str, Kind]:
    """Return what is measured, by the name that the program on the machine gives it."""
    return {
        "start": Kind(name="start", text="start to the first answer", unit="s", target=0.2),
        "start_all": Kind(name=f"start_{count}", text=f"{count} started, all answer", unit="s", target=0.2),
        "memory": Kind(name="memory", text="helpers for each idle container", unit="KiB", target=0.0),
        "daemons": Kind(name="daemons", text="resident daemons", unit="KiB", target=None),
        "import": Kind(name="import", text="import of a 250 MB layer", unit="s", target=0.25),
        "disk": Kind(name="disk", text="that layer on the disk", unit="MB", target=0.65, divisor=MB),
    }


def measure(rounds: int, count: int) -> tuple[Found, tuple[str, ...]]:
    """Boot the host, measure, and return figures by what and by engine, with the conditions."""
    built, folder = engines.build(), hosts.fresh_folder("containers-machine")
    config = hosts.machine(built, folder, declaration=engines.declaration(count), memory=MEMORY_MIB)
    with Machine.start(config):
        ssh = hosts.shell(folder)
        hosts.settle(ssh)
        engines.load_quadlets(ssh, count)
        engines.load_docker(ssh)
        ours = [engines.ours(number) for number in range(1, count + 1)]
        ssh.run(["systemctl", "stop", *ours], seconds=hosts.BOOT_SECONDS)
        found: Found = json.loads(hosts.run_inside(ssh, "containers.py", [str(rounds), str(count)], SECONDS))
        versions = f"{engines.version(ssh)}, {engines.docker_version(ssh)}"
    return found, (f"accelerator {config.accelerator.name}, 2 processors, {MEMORY_MIB} MiB", versions)


def rows(found: Found, count: int) -> list[figures.Figure]:
    """Return the figures: all engines, then ours against the better of the others."""
    made = []
    for what, kind in kinds(count).items():
        for engine, value in found[what].items():
            made.append(figures.Figure(name=f"{kind.text}: {engine}", value=value / kind.divisor, unit=kind.unit))
    return made


def ratios(found: Found, count: int) -> dict[str, float]:
    """Return how much of the better of the others ours is."""
    made = {}
    for what, kind in kinds(count).items():
        if kind.target is not None:
            made[kind.name] = found[what][OURS] / min(value for engine, value in found[what].items() if engine != OURS)
    return made


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/containers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="single starts of each (default: 3)")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="containers at once (default: 100)")
    arguments = parser.parse_args()
    before = figures.load()
    found, details = measure(arguments.rounds, arguments.count)
    compared = ratios(found, arguments.count)
    targets = {kind.name: kind.target for kind in kinds(arguments.count).values()}
    shown = [
        figures.Figure(
            name=f"ratio to the better of the others: {name}", value=value, unit="ratio", target=targets[name]
        )
        for name, value in compared.items()
    ]
    report = figures.Report(
        title="The same image under hostctl, Podman and Docker",
        figures=(*rows(found, arguments.count), *shown),
        conditions=figures.conditions(before, *details),
        ratios=compared,
    )
    figures.show(report, as_json=arguments.json)
    return 0
