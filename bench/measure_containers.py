"""Our workloads, Docker and Podman side by side: `bench/containers [--json] [--count N] [--rounds N] [--imports N]`.

In one machine, with one image, every container in a user namespace with a seccomp profile, on a bridge with NAT whose
containers find each other by name, its root file system writable: a container with a published port is started until it
answers; N containers without one until all of them serve, in the fastest way that the engine has; what then stays
resident beside them; and an image with one large layer is imported. `podman run` and Quadlet are Podman in two ways.
Ratios are to the better of the peers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostctl_qemu.machine import Machine
from hostctl_qemu.ssh import Ssh, SshError

from bench import engines, figures, hosts, measure_memory
from hostctl.run import CommandError

OURS, DOCKER, PODMAN, QUADLET = "hostctl", "docker", "podman", "quadlet"
TITLES = {OURS: "hostctl", DOCKER: "Docker", PODMAN: "podman run", QUADLET: "Quadlet"}
MEMORY_MIB = 6144
PART_SECONDS = 5400.0
POLL_SECONDS = 5.0
FOLDER = "/var/lib/bench"
DOCKERD = (
    *("systemd-run", "--quiet", "--unit=bench-dockerd", "-p", "Type=notify", "-p", "Delegate=yes"),
    *("-p", "TasksMax=infinity", "-p", "LimitNOFILE=1048576", "-p", "TimeoutStartSec=300"),
    *("dockerd", "--data-root=/var/lib/docker", "--userns-remap=nobody:nogroup", "--bip=10.101.0.1/16"),
)
"""/etc/subuid of bench/engines gives that user its range; the subnet is none of ours or of Podman."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table: values by engine, and what is wanted of the ratio, or of our own value."""

    key: str
    text: str
    unit: str
    values: Mapping[str, float]
    target: float | None = None
    absolute: bool = False

    @property
    def ratio(self) -> float | None:
        """How much of the better peer's is ours; none if there is nothing to compare."""
        peers = [value for engine, value in self.values.items() if engine != OURS]
        best = min(peers, default=0.0)
        return self.values[OURS] / best if best and OURS in self.values else None


@dataclass(slots=True)
class Seen:
    """What was measured: samples of starts and imports, what is known of many, and who failed at what."""

    start: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    many: dict[str, dict[str, Any]] = field(default_factory=dict)
    imports: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def declaration(count: int) -> str:
    """Return a host.yaml with the workload that publishes a port, and ``count`` that do not."""
    image = f'image: "{engines.SITE}", init: false'
    lines = ["version: 1", "hostname: bench", "workloads:", f'  site: {{{image}, ports: ["8081:80"]}}']
    return "\n".join([*lines, *(f"  many-{number}: {{{image}}}" for number in range(1, count + 1))]) + "\n"


def part(ssh: Ssh, name: str, wanted: Mapping[str, object]) -> dict[str, Any]:
    """Run a part on the machine, as a unit of its own: a connection may break while a hundred containers start.

    Raises:
        BenchError: it failed; with what it wrote.
    """
    unit, output, errors = f"bench-{name}.service", f"{FOLDER}/{name}.json", f"{FOLDER}/{name}.log"
    words = ["systemd-run", "--quiet", f"--unit={unit}", "--setenv=HOME=/root", "-p", f"StandardOutput=file:{output}"]
    words += ["-p", f"StandardError=file:{errors}", "-p", "TasksMax=infinity", "-p", "LimitNOFILE=1048576"]
    words += ["python3", "-I", f"{FOLDER}/containers.py", name.partition("-")[0], json.dumps(wanted)]
    ssh.run(words, seconds=120)
    end = time.monotonic() + PART_SECONDS
    while (state := _state(ssh, unit)) in ("active", "activating", "unknown"):
        if time.monotonic() > end:
            raise hosts.BenchError(f"{name} did not end within {PART_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    if state == "failed":
        said = ssh.run(["tail", "-n", "30", errors], seconds=120).text
        raise hosts.BenchError(f"{name} failed", details=said)
    text = ssh.run(["cat", output], seconds=120).text
    _say(f"{name}: {text.strip()}")
    found: dict[str, Any] = json.loads(text)
    return found


def _state(ssh: Ssh, unit: str) -> str:
    try:
        return ssh.run(["systemctl", "is-active", unit], seconds=120, check=False).text.strip() or "unknown"
    except (SshError, CommandError):
        return "unknown"


def prepare(ssh: Ssh, seen: Seen) -> list[str]:
    """Bring the images and the script to the machine, start Docker, and return the engines that are ready."""
    site, layer = engines.archives()
    ssh.run(["mkdir", "-p", FOLDER])
    ssh.put(site, f"{FOLDER}/site.tar", 600)
    ssh.put(layer, f"{FOLDER}/layer.tar", 600)
    ssh.put(hosts.ROOT / "bench/guest/containers.py", f"{FOLDER}/containers.py")
    ssh.run(["systemctl", "stop", "workload-*.service"], seconds=900)
    load = ["load", "--input", f"{FOLDER}/site.tar"]
    ready = [OURS]
    for names, commands in (((DOCKER,), [[*DOCKERD], ["docker", *load]]), ((PODMAN, QUADLET), [["podman", *load]])):
        try:
            for words in commands:
                ssh.run(words, seconds=600)
            ready += names
        except CommandError as error:
            seen.failures.append(f"{TITLES[names[0]]}: {error.brief}: {error.details}")
    return ready


def measure(count: int, rounds: int, imports: int) -> tuple[Seen, tuple[str, ...]]:
    """Boot the host, measure all parts, and return what was seen, with the conditions."""
    built, folder = engines.build(), hosts.fresh_folder("containers-machine")
    config = hosts.machine(built, folder, declaration=declaration(count), memory=MEMORY_MIB)
    seen = Seen()
    with Machine.start(config):
        ssh = hosts.shell(folder)
        hosts.settle(ssh)
        ready = prepare(ssh, seen)
        wanted = {"engines": ready, "rounds": rounds}
        seen.start = _in_turn(ssh, seen, "start", wanted)
        for engine in ready:
            measure_memory.wait_until_idle(ssh)
            _say(f"{count} by {engine}")
            try:
                seen.many[engine] = part(ssh, f"many-{engine}", {"engine": engine, "count": count})
            except hosts.BenchError as error:
                seen.failures.append(f"{TITLES[engine]}: {error.brief}: {error.details}")
        stores = [engine for engine in ready if engine != QUADLET]
        wanted = {"engines": stores, "rounds": imports, "archive": f"{FOLDER}/layer.tar"}
        seen.imports = _in_turn(ssh, seen, "import", wanted)
        details = (f"accelerator {config.accelerator.name}, 2 processors, 6 GiB", engines.version(ssh))
    return seen, details


def _in_turn(ssh: Ssh, seen: Seen, name: str, wanted: Mapping[str, object]) -> dict[str, dict[str, list[float]]]:
    _say(name)
    done = part(ssh, name, wanted)
    seen.failures += [f"{TITLES[engine]}, {name}: {text}" for engine, text in done["failures"].items()]
    found: dict[str, dict[str, list[float]]] = done["found"]
    return found


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def rows(seen: Seen, count: int) -> list[Row]:
    """Return the table's lines."""

    def medians(samples: Mapping[str, Mapping[str, Sequence[float]]], kind: str, unit: float = 1) -> dict[str, float]:
        return {name: statistics.median(kinds[kind]) / unit for name, kinds in samples.items() if kinds.get(kind)}

    def of(value: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
        return {engine: value(found) for engine, found in seen.many.items()}

    helper = of(lambda found: found["helper_kib"] / count)
    daemon = of(lambda found: found["daemon_kib"] / 1024)
    return [
        Row(key="start", text="start to the first answer", unit="s", values=medians(seen.start, "ready"), target=0.2),
        Row(
            key=f"start_{count}",
            text=f"{count} started, all serve",
            unit="s",
            values=of(lambda found: found["ready"]),
            target=0.2,
        ),
        Row(key="memory", text="helper memory for each container", unit="KiB", values=helper, target=0),
        Row(key="daemons", text="resident daemons", unit="MiB", values=daemon, target=0, absolute=True),
        Row(
            key="import",
            text="import of a layer of 230 MB",
            unit="s",
            values=medians(seen.imports, "seconds"),
            target=0.25,
        ),
        Row(
            key="disk",
            text="that layer on the disk",
            unit="MB",
            values=medians(seen.imports, "bytes", 1e6),
            target=0.65,
        ),
    ]


def table(lines: Sequence[Row]) -> list[str]:
    """Return the lines as Markdown."""
    made = [f"| | {' | '.join(TITLES.values())} | ratio | target |", "| --- |" + " --- |" * (len(TITLES) + 2)]
    for row in lines:
        digits = 0 if row.unit in ("KiB", "MB") else 1 if row.unit == "MiB" else 2
        cells = [f"{row.values[name]:,.{digits}f} {row.unit}" if name in row.values else "-" for name in TITLES]
        ratio = "-" if row.absolute or row.ratio is None else f"{row.ratio:.3g}"
        target = "-" if row.target is None else f"{row.target:g} {row.unit}" if row.absolute else f"{row.target:g}"
        made.append(f"| {' | '.join([row.text, *cells, ratio, target])} |")
    return made


def resident(many: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what was counted as helpers and daemons of each engine, and what else of the host is new since before."""
    made = []
    for engine, found in many.items():
        others = ", ".join(f"{count} {name}" for name, count in Counter(found["others"]).items())
        made.append(
            f"{TITLES[engine]}: {found['helpers']} helpers and {found['daemons']} daemons "
            f"({', '.join(found['names']) or 'none'}); new on the host besides: {others or 'nothing'}"
        )
    return made


def as_figures(lines: Sequence[Row], seen: Seen) -> list[figures.Figure]:
    """Return every value, and every ratio with its target."""
    samples = {"start": (seen.start, "ready"), "import": (seen.imports, "seconds")}
    made = []
    for row in lines:
        for engine, value in row.values.items():
            source, kind = samples.get(row.key, ({}, ""))
            taken = tuple(source.get(engine, {}).get(kind, ()))
            target = row.target if row.absolute and engine == OURS else None
            name = f"{TITLES[engine]}: {row.text}"
            made.append(figures.Figure(name=name, value=value, unit=row.unit, samples=taken, target=target))
        if not row.absolute and row.ratio is not None:
            made.append(figures.Figure(name=f"ratio: {row.text}", value=row.ratio, unit="ratio", target=row.target))
    return made


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/containers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--count", type=figures.positive, default=100, metavar="N", help="how many of each (default: 100)"
    )
    parser.add_argument(
        "--rounds", type=figures.positive, default=5, metavar="N", help="times that one is started (default: 5)"
    )
    parser.add_argument(
        "--imports", type=figures.positive, default=2, metavar="N", help="times that it is imported (default: 2)"
    )
    arguments = parser.parse_args()
    before = figures.load()
    seen, details = measure(arguments.count, arguments.rounds, arguments.imports)
    lines = rows(seen, arguments.count)
    report = figures.Report(
        title="The same containers by hostctl, Docker and Podman, in one machine",
        figures=tuple(as_figures(lines, seen)),
        lines=(*table(lines), *resident(seen.many), *seen.failures),
        conditions=figures.conditions(before, *details),
        ratios={row.key: row.ratio for row in lines if not row.absolute},
    )
    figures.show(report, as_json=arguments.json)
    return 0
