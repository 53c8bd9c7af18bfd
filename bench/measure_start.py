"""Starting a workload, ours and the same image as a Quadlet: `bench/start [--json] [--rounds N]`.

Inside one machine, one after the other and in alternating order: `systemctl start` until the unit is started, until
the published port answers, `systemctl restart`, and `systemctl stop`. Both have a network namespace of their own on a
bridge, a published port and a read-only root. Ours also has a user namespace, which Podman as root does not make.
"""

from __future__ import annotations

import argparse
import json
import statistics

from hostctl_qemu.machine import Machine

from bench import figures, hosts, podman_host

TARGET = 0.25
SECONDS_A_ROUND = 300.0
FLOOR = "bench-floor.service"
FLOOR_UNIT = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
TEXTS = {
    "start": "start to started",
    "answer": "start to the first answer",
    "restart": "restart to started",
    "stop": "stop to stopped",
}


def measure(rounds: int) -> tuple[dict[str, dict[str, list[float]]], tuple[str, ...]]:
    """Boot the host, go through the rounds, and return the times by unit and kind, with the conditions."""
    built, folder = podman_host.build(), hosts.fresh_folder("start-machine")
    config = hosts.machine(built, folder, declaration=podman_host.declaration(1))
    with Machine.start(config):
        ssh = hosts.shell(folder)
        hosts.settle(ssh)
        podman_host.load_quadlets(ssh, 1)
        ssh.run(["dd", f"of=/run/systemd/system/{FLOOR}", "status=none"], stdin=FLOOR_UNIT.encode())
        ssh.run(["systemctl", "daemon-reload"], seconds=120)
        ssh.run(["systemctl", "stop", podman_host.ours(1)], seconds=120)
        words = [f"{podman_host.ours(1)}={podman_host.OUR_PORT}", f"{podman_host.theirs(1)}={podman_host.THEIR_PORT}"]
        words.append(f"{FLOOR}=0")
        text = hosts.run_inside(ssh, "switch.py", [str(rounds), *words], SECONDS_A_ROUND * (rounds + 1))
        details = (f"accelerator {config.accelerator.name}, 2 processors, 2 GiB", podman_host.version(ssh))
    return json.loads(text), details


def rows(times: dict[str, dict[str, list[float]]]) -> list[figures.Figure]:
    """Return the figures out of the times."""
    ours, theirs = times[podman_host.ours(1)], times[podman_host.theirs(1)]
    made = []
    for kind, text in TEXTS.items():
        made.append(figures.median(f"hostctl: {text}", ours[kind]))
        made.append(figures.median(f"Quadlet: {text}", theirs[kind]))
        middle = statistics.median(ours[kind]), statistics.median(theirs[kind])
        made.append(figures.ratio(f"ratio:   {text}", *middle, target=TARGET if kind == "start" else None))
    floor = times[FLOOR]["start"]
    return [*made, figures.median("floor: a unit that runs `true`", floor)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/start", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--rounds", type=figures.positive, default=10, metavar="N", help="times that each is started (default: 10)"
    )
    arguments = parser.parse_args()
    before = figures.load()
    times, details = measure(arguments.rounds)
    report = figures.Report(
        title="Starting the same image in a private network, as a workload and as a Quadlet",
        figures=tuple(rows(times)),
        conditions=figures.conditions(before, *details),
    )
    figures.show(report, as_json=arguments.json)
    return 0
