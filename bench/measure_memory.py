"""What stays resident on an idle host, ours and the same image as a Quadlet: `bench/memory [--json] [--count N]`.

Inside one machine, N workloads and N Quadlets of one image run side by side. Once the agent has ended, every process
is looked at: what is of hostctl, and what each container's unit has beside the container's own programs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostctl_qemu.machine import Machine
from hostctl_qemu.ssh import Ssh

from bench import figures, hosts, podman_host

SETTLED_SECONDS = 120.0  # the agent ends 30 s after its last call
PEERS_SECONDS = 600.0
Processes = Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a host's processes were: ``ours`` of hostctl, ``units`` those of each container's unit."""

    ours: Processes
    units: Mapping[str, Processes]

    def helpers(self, units: Sequence[str]) -> tuple[int, float]:
        """Return how many helpers these units have together, and their memory in KiB for each unit."""
        found = [each for unit in units for each in self.units[unit] if each["role"] == "helper"]
        return len(found), sum(float(str(each["kib"])) for each in found) / len(units)


def wait_until_idle(ssh: Ssh) -> None:
    """Return once the agent has ended; asking systemd does not wake it.

    Raises:
        BenchError: it stayed.
    """
    end = time.monotonic() + SETTLED_SECONDS
    words = ["systemctl", "is-active", "hostd.service"]
    while ssh.run(words, seconds=60, check=False).text.strip() == "active":
        if time.monotonic() > end:
            raise hosts.BenchError(f"the agent was still there after {SETTLED_SECONDS:g} s")
        time.sleep(hosts.POLL_SECONDS)


def measure(count: int) -> tuple[Seen, tuple[str, ...]]:
    """Boot the host, start everything, and return what is there once it is idle, with the conditions."""
    built, folder = podman_host.build(), hosts.fresh_folder("memory-machine")
    config = hosts.machine(built, folder, declaration=podman_host.declaration(count))
    numbers = range(1, count + 1)
    units = [*map(podman_host.ours, numbers), *map(podman_host.theirs, numbers)]
    with Machine.start(config):
        ssh = hosts.shell(folder)
        hosts.settle(ssh)
        podman_host.load_quadlets(ssh, count)
        ssh.run(["systemctl", "start", *units], seconds=PEERS_SECONDS)
        ssh.run(["systemctl", "is-active", *units], seconds=60)
        wait_until_idle(ssh)
        found = json.loads(hosts.run_inside(ssh, "processes.py", units, PEERS_SECONDS))
        details = (f"accelerator {config.accelerator.name}, 2 processors, 2 GiB", podman_host.version(ssh))
    empty = [unit for unit in units if not found["units"][unit]]
    if empty:
        raise hosts.BenchError("these units have no process to look at", details="\n".join(empty))
    return Seen(ours=found["ours"], units=found["units"]), details


def rows(seen: Seen, count: int) -> list[figures.Figure]:
    """Return the figures."""
    numbers = range(1, count + 1)
    our_count, our_size = seen.helpers([podman_host.ours(n) for n in numbers])
    their_count, their_size = seen.helpers([podman_host.theirs(n) for n in numbers])
    resident = sum(float(str(each["kib"])) for each in seen.ours)
    return [
        figures.Figure(name="hostctl: processes resident on the idle host", value=len(seen.ours), unit="", target=0),
        figures.Figure(name="hostctl: memory of these", value=resident, unit="KiB", target=0),
        figures.Figure(name="hostctl: helper processes of all containers", value=our_count, unit="", target=0),
        figures.Figure(name="Quadlet: helper processes of all containers", value=their_count, unit=""),
        figures.Figure(name="hostctl: helper memory for each container", value=our_size, unit="KiB", target=0),
        figures.Figure(name="Quadlet: helper memory for each container", value=their_size, unit="KiB"),
        figures.ratio("ratio:   helper memory for each container", our_size, their_size, target=0),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/memory", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--count", type=figures.positive, default=5, metavar="N", help="containers of each kind (default: 5)"
    )
    arguments = parser.parse_args()
    before = figures.load()
    seen, details = measure(arguments.count)
    names = sorted({f"{each['name']} ({each['role']})" for found in seen.units.values() for each in found})
    report = figures.Report(
        title=f"Resident on an idle host with {arguments.count} workloads and {arguments.count} Quadlets of one image",
        figures=tuple(rows(seen, arguments.count)),
        lines=(f"processes of the containers' units: {', '.join(names)}",),
        conditions=figures.conditions(before, *details),
    )
    figures.show(report, as_json=arguments.json)
    return 0
