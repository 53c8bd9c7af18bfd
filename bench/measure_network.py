"""One network pass for many workloads: `bench/network [--json] [--workloads N] [--rounds N]`. Needs root.

In a network and a mount namespace of its own on this machine, the program that the host's unit runs connects N
workloads that have neither namespaces nor links yet, from the start of Python to its end: user and network namespaces,
links, addresses, routes, packet filter, names. A second pass, with nothing to do, follows; then everything is removed.
The processor time beside the time on the clock tells what a busy machine added.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench import figures
from hostctl.config.references import PortMapping
from hostctl.network.allocate import Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.document import encode
from hostctl.network.model import NetworkPlan

TARGET = 1.0  # second, for 200 workloads natively
FIRST_ID, IDS = 0x10000000, 65536
SECONDS = 600.0
PASSES = ("first", "again", "removed")


def plan(workloads: int) -> NetworkPlan:
    """Return a plan: every second workload publishes a port, every fourth is on two networks, one of them with IPv6."""
    networks = [WantedNetwork(name="front", subnet6="pool"), WantedNetwork(name="back", internal=True)]
    wanted = []
    for number in range(workloads):
        on = ("front", "back") if number % 4 == 0 else ("default",)
        ports = (PortMapping(host_port=20000 + number, container_port=80),) if number % 2 == 0 else ()
        wanted.append(
            Wanted(
                name=f"w{number}",
                userns_start=FIRST_ID + number * IDS,
                attachments=tuple(WantedAttachment(network=name) for name in on),
                ports=ports,
            )
        )
    return allocate(wanted, networks=networks)


def inside(files: list[str]) -> int:
    """Run the passes, in namespaces of their own, and print for each the time on the clock and of the processor."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    for file in files:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "hostctl.network.apply", file], check=True)
        clock = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        print(json.dumps([clock, used]), flush=True)
    return 0


def measure(workloads: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the times of each pass by its name, in seconds on the clock and of the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in PASSES}
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, made in (("wanted", plan(workloads)), ("none", replace(plan(0), networks=()))):
            files.append(Path(folder) / name)
            files[-1].write_bytes(encode(made))
        wanted, none = map(str, files)
        words = ["unshare", "--net", "--mount", sys.executable, "-m", "bench.measure_network", "--inside"]
        for _ in range(rounds):
            done = subprocess.run([*words, wanted, wanted, none], stdout=subprocess.PIPE, timeout=SECONDS, check=True)
            for name, line in zip(PASSES, done.stdout.splitlines(), strict=True):
                clock, used = json.loads(line)
                times[name].append((clock, used))
    return times


def rows(times: dict[str, list[tuple[float, float]]], workloads: int) -> list[figures.Figure]:
    """Return the figures out of the times."""
    texts = {
        "first": f"connect {workloads} workloads",
        "again": "pass with nothing to do",
        "removed": "remove them",
    }
    made = []
    for name, text in texts.items():
        clock = figures.median(text, [each[0] for each in times[name]])
        made.append(replace(clock, target=TARGET) if name == "first" else clock)
        made.append(figures.median(f"{text}: of the processor", [each[1] for each in times[name]]))
    return made


def main() -> int:
    """Measure and print."""
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="bench/network", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--workloads", type=figures.positive, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument(
        "--rounds", type=figures.positive, default=5, metavar="N", help="times that it is done (default: 5)"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it makes namespaces and links, which needs root")
    before = figures.load()
    times = measure(arguments.workloads, arguments.rounds)
    report = figures.Report(
        title=f"One network pass for {arguments.workloads} workloads on this machine",
        figures=tuple(rows(times, arguments.workloads)),
        conditions=figures.conditions(before),
    )
    figures.show(report, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
