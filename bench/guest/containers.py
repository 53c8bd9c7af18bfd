"""Runs on the measured host, once for each part of `bench/containers`, and prints what was measured as JSON.

Arguments: the part, and what it is to do as JSON. A part goes through the engines in turn, and the order turns around
with every round. An engine that fails is left out from then on; its failure, with what the program said, is printed
with the rest. Before each measurement the processors must have come to rest.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

PROC = Path("/proc")
QUADLETS = Path("/run/containers/systemd")
UNITS, ALL = Path("/run/systemd/system"), "bench-many.target"
STATE = "/var"
DEADLINE = 1800.0
WORKERS = 4  # commands of an engine at a time
BUSY = 0.15  # of all processors, at rest
LOOK = 1.0  # seconds between two looks at how many serve
TICKS = os.sysconf("SC_CLK_TCK")  # in a second, of the times in /proc
SITE, LAYER = "localhost/site:1", "localhost/layer:1"
USERNS = "auto:size=65536"
NETWORK = "bench"
SUBNETS = {"docker": "10.102.0.0/16", "podman": "10.103.0.0/16"}
"""Of a network that each engine makes, as names resolve in those only; they are none of ours."""
QUADLET = """\
[Container]
Image={image}
ContainerName={name}
Network={network}
UserNS={userns}
Pull=never
{ports}
[Service]
TimeoutStartSec=infinity
"""
HELPERS = ("conmon", "containerd-shim", "docker-proxy", "crun", "runc", "podman", "catatonit")
DAEMONS: Mapping[str, tuple[str, ...]] = {
    "hostctl": ("-m hostctl", "/usr/bin/hostctl", "/run/hostctl/"),
    "docker": ("dockerd", "containerd"),
    "podman": ("/usr/bin/podman", "/run/containers/"),
    "quadlet": ("/usr/bin/podman", "/run/containers/"),
}
"""Words of the command lines of what is resident however many containers run."""
PORTS = {"hostctl": 8081, "docker": 8082, "podman": 8083, "quadlet": 8084}


def call(*words: str) -> str:
    """Run a program and return what it printed; its errors are in what is raised."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise RuntimeError(f"{' '.join(words)[:300]}: exit status {done.returncode}\n{said}")
    return done.stdout


def say(text: str) -> None:
    """Note progress, for whoever looks."""
    print(f"{time.monotonic():.0f} {text}", file=sys.stderr, flush=True)


def busy() -> Iterator[float]:
    """Yield again and again which share of the processors was in use since the last time."""
    before: list[int] | None = None
    while True:
        words = PROC.joinpath("stat").read_text().splitlines()[0].split()
        now = [int(word) for word in words[1:]]
        if before is not None:
            passed = [one - other for one, other in zip(now, before, strict=True)]
            yield 1 - (passed[3] + passed[4]) / max(1, sum(passed))
        before = now
        time.sleep(1)


def settle() -> None:
    """Wait until nothing is under way, so that no figure pays for what came before."""
    end = time.monotonic() + DEADLINE
    for share in busy():
        if share < BUSY and not call("systemctl", "list-jobs", "--no-legend").strip():
            return
        if time.monotonic() > end:
            raise TimeoutError("the machine does not come to rest")


# -- starting one ------------------------------------------------------------------------------------------------


def quadlets(names: Mapping[str, int]) -> None:
    """Have Podman's generator make units, each with the port it publishes, or 0."""
    QUADLETS.mkdir(parents=True, exist_ok=True)
    for name, port in names.items():
        ports = f"PublishPort={port}:80\n" if port else ""
        text = QUADLET.format(image=SITE, name=name, network=NETWORK, userns=USERNS, ports=ports)
        QUADLETS.joinpath(f"{name}.container").write_text(text)
    call("systemctl", "daemon-reload")


def run_words(engine: str, name: str, port: int = 0) -> list[str]:
    """Return the command that starts a container of Docker or Podman."""
    published = [f"--publish={port}:80"] if port else []
    private = [f"--userns={USERNS}"] if engine == "podman" else []
    return [engine, "run", "--detach", f"--name={name}", f"--network={NETWORK}", *private, *published, SITE]


def make_networks(engines: Sequence[str]) -> None:
    """Have each engine make the network of its containers."""
    for engine, subnet in SUBNETS.items():
        if engine in engines:
            call(engine, "network", "create", f"--subnet={subnet}", NETWORK)


def start(engine: str) -> None:
    """Start the one container with a published port."""
    if engine == "hostctl":
        call("systemctl", "start", "workload-site.service")
    elif engine == "quadlet":
        call("systemctl", "start", "quadlet-site.service")
    else:
        call(*run_words(engine, "site", PORTS[engine]))


def stop(engine: str) -> None:
    """Remove it."""
    if engine == "hostctl":
        call("systemctl", "stop", "workload-site.service")
    elif engine == "quadlet":
        call("systemctl", "stop", "quadlet-site.service")
    else:
        call(engine, "rm", "--force", "site")


def wait_for_answer(port: int) -> None:
    """Return at the first answer on a port of this host. A plain socket: what it costs is in everybody's figure."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if connection.recv(64).startswith(b"HTTP/1.1 200 "):
                return
        time.sleep(0.01)
    raise TimeoutError(f"nothing answers on port {port}")


def start_once(engine: str) -> dict[str, float]:
    """Return the seconds until the command that starts a container has ended, and until it answers."""
    settle()
    began = time.monotonic()
    start(engine)
    started = time.monotonic() - began
    wait_for_answer(PORTS[engine])
    ready = time.monotonic() - began
    stop(engine)
    return {"started": started, "ready": ready}


def measure_start(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Start each engine's container several times; a first time, which is not counted, fills the caches of all."""
    make_networks(wanted["engines"])
    quadlets({"quadlet-site": PORTS["quadlet"]})
    return in_turn(wanted["engines"], wanted["rounds"], start_once, warm=True)


def in_turn(
    engines: Sequence[str], rounds: int, once: Callable[[str], dict[str, float]], *, warm: bool
) -> dict[str, Any]:
    """Go through the engines, forwards and backwards, and return every result and who failed."""
    found: dict[str, dict[str, list[float]]] = {engine: {} for engine in engines}
    failures: dict[str, str] = {}
    for number in range(rounds + warm):
        for engine in engines if number % 2 else reversed(engines):
            if engine in failures:
                continue
            try:
                result = once(engine)
            except (RuntimeError, TimeoutError) as error:
                failures[engine] = str(error)
                continue
            say(f"{engine}: {result}")
            if number or not warm:
                for kind, value in result.items():
                    found[engine].setdefault(kind, []).append(value)
    return {"found": found, "failures": failures}


# -- starting many -----------------------------------------------------------------------------------------------


def processes() -> Iterator[tuple[Path, str, bool]]:
    """Yield every process with its command line, and whether it is in a PID namespace of its own."""
    own = (PROC / "self/ns/pid").readlink()
    for process in PROC.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            if words:  # else of the kernel, or ended
                yield process, words, (process / "ns/pid").readlink() != own
        except (FileNotFoundError, ProcessLookupError):
            continue


def servers(known: frozenset[str]) -> list[float]:
    """Return when each container's server came that takes connections, in seconds of time.monotonic(), sorted.

    By the time at which its process began (proc_pid_stat(5)), so looking seldom is as exact as looking often, which
    would cost what is measured processor time. Processes of ``known`` are not looked at.
    """
    began = []
    for name in os.listdir(PROC):  # noqa: PTH208 - plain text is quicker
        if name.isdigit() and name not in known:
            with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/cmdline", "rb") as file:  # noqa: PTH123
                if file.read(16).startswith(b"nginx: worker"):
                    stat = PROC.joinpath(name, "stat").read_text()
                    began.append(int(stat.rpartition(")")[2].split()[19]) / TICKS)
    return sorted(began)


def pss(process: Path) -> int:
    """Return the proportional set size of a process in KiB (proc_pid_smaps(5)): pages that several map count once."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def resident(engine: str, known: frozenset[str]) -> dict[str, Any]:
    """Return what an engine keeps resident outside of its containers: helpers and daemons, and names of what is new."""
    helpers: list[int] = []
    daemons: list[int] = []
    others: list[str] = []
    names: set[str] = set()
    for process, words, inside in processes():
        name = (process / "comm").read_text().strip()
        if inside:
            continue
        if any(word in words for word in DAEMONS[engine]) and name not in HELPERS:
            daemons.append(pss(process))
            names.add(name)
        elif name in HELPERS:
            helpers.append(pss(process))
            names.add(name)
        elif process.name not in known:
            others.append(name)
    return {
        "helpers": len(helpers),
        "helper_kib": sum(helpers),
        "daemons": len(daemons),
        "daemon_kib": sum(daemons),
        "names": sorted(names),
        "others": sorted(others),
    }


def many(engine: str, count: int) -> list[str]:
    """Return the units of an engine whose containers are units."""
    kind = "workload" if engine == "hostctl" else engine
    return [f"{kind}-many-{number}.service" for number in range(1, count + 1)]


def gather(units: Sequence[str]) -> None:
    """Have one target want all of them, as at boot: so they start by one transaction, not each by its own."""
    UNITS.mkdir(parents=True, exist_ok=True)
    UNITS.joinpath(ALL).write_text(f"[Unit]\nDescription=All of them\nWants={' '.join(units)}\n")
    call("systemctl", "daemon-reload")


def disconnect() -> None:
    """Take back all that the pass has made, roots and networks, as if the host had not started anything."""
    from dataclasses import replace  # noqa: PLC0415 - only here, and only on a host is there hostctl

    from hostctl.network.apply import read  # noqa: PLC0415
    from hostctl.network.document import encode  # noqa: PLC0415

    call("systemctl", "stop", "workload-*.service")
    plan = read(Path("/var/lib/hostctl/current/network.json"))
    empty = Path("/run/bench-network.json")
    empty.write_bytes(encode(replace(plan, workloads=())))
    call("python3", "-I", "-m", "hostctl.network.apply", str(empty))
    call("python3", "-I", "-m", "hostctl.workload.roots")


def start_many(engine: str, count: int) -> None:
    """Start many containers in the fastest way that the engine has a command for; it need not wait for them.

    Podman's commands wait for each other: of a hundred Quadlets by one transaction, as at boot, 39 ran after a quarter
    of an hour under emulation, where four at a time take minutes.
    """
    if engine == "hostctl":
        call("systemctl", "restart", "--no-block", "hostctl-network.service")
        call("systemctl", "start", "--no-block", ALL)
    else:
        if engine == "quadlet":
            commands = [["systemctl", "start", unit] for unit in many(engine, count)]
        else:
            commands = [run_words(engine, f"many-{number}") for number in range(1, count + 1)]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda words: call(*words), commands))


def stop_many(engine: str, count: int) -> None:
    """Remove them."""
    if engine == "hostctl":
        call("systemctl", "stop", ALL, *many(engine, count))
    elif engine == "quadlet":
        call("systemctl", "stop", *many(engine, count))
    else:
        call(engine, "rm", "--force", *(f"many-{number}" for number in range(1, count + 1)))


def measure_many(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Start many containers of one engine, look at what is resident once they idle, and remove them."""
    engine, count = wanted["engine"], wanted["count"]
    if engine == "hostctl":
        disconnect()
        gather(many(engine, count))
    elif engine == "quadlet":
        quadlets({f"quadlet-many-{number}": 0 for number in range(1, count + 1)})
    settle()
    known = frozenset(os.listdir(PROC))  # noqa: PTH208 - plain text is quicker
    began = time.monotonic()
    start_many(engine, count)
    started = time.monotonic() - began
    while len(up := servers(known)) < count:
        if time.monotonic() - began > DEADLINE:
            raise TimeoutError(f"{len(up)} of {count} containers serve")
        time.sleep(LOOK)
    ready = up[count - 1] - began
    say(f"{engine}: {count} in {ready:.1f} s")
    settle()
    found = resident(engine, known)
    stop_many(engine, count)
    return {"started": started, "ready": ready, **found}


# -- importing ---------------------------------------------------------------------------------------------------


def used() -> int:
    """Return the bytes in use of the file system that all engines keep their images on."""
    status = os.statvfs(STATE)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def import_once(engine: str, archive: str) -> dict[str, float]:
    """Return the seconds until an image is imported and on the disk, and the bytes that it takes there; remove it."""
    with Path(archive).open("rb") as file:  # nobody pays for reading it from the disk
        while file.read(1 << 20):
            pass
    os.sync()
    settle()
    before = used()
    began = time.monotonic()
    call(engine, "load", "--input", archive)
    os.sync()
    seconds = time.monotonic() - began
    taken = used() - before
    call(engine, "rmi", LAYER)
    return {"seconds": seconds, "bytes": taken}


def measure_import(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Import the archive with each engine."""
    return in_turn(
        wanted["engines"], wanted["rounds"], lambda engine: import_once(engine, wanted["archive"]), warm=False
    )


PARTS = {"start": measure_start, "many": measure_many, "import": measure_import}


def main() -> None:
    """Measure one part and print it."""
    print(json.dumps(PARTS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
