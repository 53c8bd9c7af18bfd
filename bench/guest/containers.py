"""Runs on the measured host: what containers cost under each engine, printed as JSON.

Arguments: rounds of single starts, and how many are started at once. All engines have the image, and all publish a port
for each container: engine `k` of `ENGINES` publishes container `n` at `8000 + 1000 * k + n`.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from statistics import median

IMAGE = "localhost/site:1"
DEADLINE = 1800.0
AT_ONCE = 8  # programs that each start one container
LAYER_BYTES = 250_000_000
ARCHIVE = Path("/var/lib/layer.tar")
PROC = Path("/proc")
Numbers = Sequence[int]


def run(*argv: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def each(make: Callable[[int], tuple[str, ...]], numbers: Numbers) -> None:
    """Run a program for each container, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda number: run(*make(number)), numbers))


@dataclass(frozen=True, slots=True)
class Engine:
    """How one starts and stops containers, imports an archive, and what it leaves running beside them.

    ``helpers`` and ``daemons`` are names of processes, as /proc/PID/comm has them.
    """

    name: str
    base: int
    start: Callable[[Numbers], None]
    stop: Callable[[Numbers], None]
    load: tuple[str, ...]
    helpers: tuple[str, ...]
    daemons: tuple[str, ...]

    def port(self, number: int) -> int:
        """Return the port of a container."""
        return self.base + number


def by_units(template: str, verb: str) -> Callable[[Numbers], None]:
    """Return what starts or stops units of systemd."""
    return lambda numbers: run("systemctl", verb, *(template.format(number) for number in numbers))


def by_program(program: str, base: int, *options: str) -> Callable[[Numbers], None]:
    """Return what starts containers by `podman run` or `docker run`."""

    def argv(number: int) -> tuple[str, ...]:
        publish = f"{base + number}:80"
        return (program, "run", "--detach", "--name", f"c{number}", "--publish", publish, *options, IMAGE)

    return lambda numbers: each(argv, numbers)


def removing(program: str) -> Callable[[Numbers], None]:
    """Return what removes containers."""
    return lambda numbers: run(program, "rm", "--force", *(f"c{number}" for number in numbers))


PODMAN = ("conmon", "rootlessport")
READ_ONLY = ("--read-only", "--tmpfs=/run", "--tmpfs=/tmp")
ENGINES = (
    Engine(
        "hostctl",
        8000,
        by_units("workload-site-{}.service", "start"),
        by_units("workload-site-{}.service", "stop"),
        ("hostctl", "load", "--input", str(ARCHIVE)),
        (),
        ("hostctl", "aardvark-dns"),
    ),
    Engine(
        "quadlet",
        9000,
        by_units("quadlet-{}.service", "start"),
        by_units("quadlet-{}.service", "stop"),
        ("podman", "load", "--input", str(ARCHIVE)),
        PODMAN,
        (),
    ),
    Engine(
        "podman run",
        10000,
        by_program("podman", 10000, "--read-only"),
        removing("podman"),
        (),  # as the one before
        PODMAN,
        (),
    ),
    Engine(
        "docker",
        11000,
        by_program("docker", 11000, *READ_ONLY),
        removing("docker"),
        ("docker", "load", "--input", str(ARCHIVE)),
        ("containerd-shim", "docker-proxy"),
        ("dockerd", "containerd"),
    ),
)


def answers(port: int) -> bool:
    """Tell whether a port of this host answers with success."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.read())
    except (OSError, HTTPException):
        return False


def wait_for_answer(port: int) -> None:
    """Return once a port of this host answers."""
    end = time.monotonic() + DEADLINE
    while not answers(port):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing answers on port {port}")
        time.sleep(0.01)


def settle() -> None:
    """Wait until systemd has nothing under way, so that the next figure does not pay for the last."""
    words = ["systemctl", "list-jobs", "--no-legend", "--quiet"]
    while subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout.strip():
        time.sleep(0.1)


def timed_start(engine: Engine, numbers: Numbers) -> float:
    """Start containers and return the seconds until all of them answer."""
    settle()
    started = time.monotonic()
    engine.start(numbers)
    for number in numbers:
        wait_for_answer(engine.port(number))
    return time.monotonic() - started


def processes() -> Iterator[tuple[str, str, int]]:
    """Return name, command line and proportional set size in KiB of every process in the host's PID namespace."""
    own = (PROC / "self/ns/pid").readlink()
    for process in PROC.iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        try:
            words = (process / "cmdline").read_bytes()
            if not words or (process / "ns/pid").readlink() != own:
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
            pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            yield (process / "comm").read_text().strip(), words.decode("utf-8", "replace"), pss
        except (FileNotFoundError, ProcessLookupError):
            continue


def resident(engine: Engine, count: int) -> tuple[float, float]:
    """Return KiB of helpers for each container, and of daemons."""
    helpers = daemons = 0
    for name, words, pss in processes():
        if name in engine.helpers:
            helpers += pss
        elif name in engine.daemons or (engine.name == "hostctl" and "hostctl" in words):
            daemons += pss
    return helpers / count, daemons


def idle() -> None:
    """Wait until the agent has ended, as it does when nobody has asked it for a while."""
    words = ["systemctl", "is-active", "--quiet", "hostd.service"]
    while subprocess.run(words, check=False, stdin=subprocess.DEVNULL).returncode == 0:
        time.sleep(1)


def make_archive() -> None:
    """Write an archive as `docker save` does, with one layer of this host's own files."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path in sorted(Path("/usr/lib").rglob("*")):
            if path.is_file() and not path.is_symlink():
                tar.add(path, arcname=str(path)[1:], recursive=False)
                if layer.tell() >= LAYER_BYTES:
                    break
    data = layer.getvalue()
    diff = sha256(data).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{diff}"]}
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
    name = sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["localhost/layer:1"], "Layers": [f"{diff}/layer.tar"]}]
    with tarfile.open(ARCHIVE, "w") as tar:
        files = {name: config, f"{diff}/layer.tar": data, "manifest.json": json.dumps(manifest).encode()}
        for where, content in files.items():
            info = tarfile.TarInfo(where)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def used() -> int:
    """Return the bytes that are taken on the state partition."""
    os.sync()
    state = os.statvfs("/var")
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def imported(engine: Engine) -> tuple[float, float]:
    """Import the archive; return seconds until it is on the disk, and the bytes that it takes."""
    before = used()
    started = time.monotonic()
    run(*engine.load)
    os.sync()
    seconds = time.monotonic() - started
    return seconds, used() - before


def main() -> None:
    """Go through everything and print it."""
    rounds, count = int(sys.argv[1]), int(sys.argv[2])
    single: dict[str, list[float]] = {engine.name: [] for engine in ENGINES}
    for number in range(rounds + 1):  # a first round without counting fills the caches of all
        for engine in ENGINES if number % 2 else reversed(ENGINES):
            seconds = timed_start(engine, [1])
            engine.stop([1])
            if number:
                single[engine.name].append(seconds)
    found: dict[str, dict[str, float]] = {"start": {name: median(times) for name, times in single.items()}}
    found |= {what: {} for what in ("start_all", "memory", "daemons", "import", "disk")}
    for engine in ENGINES:
        numbers = range(1, count + 1)
        found["start_all"][engine.name] = timed_start(engine, numbers)
        idle()
        found["memory"][engine.name], found["daemons"][engine.name] = resident(engine, count)
        engine.stop(numbers)
    make_archive()
    for engine in ENGINES:
        if engine.load:
            found["import"][engine.name], found["disk"][engine.name] = imported(engine)
    print(json.dumps(found))


main()
