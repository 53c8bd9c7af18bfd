"""What the kernel counts for a workload: the files of its cgroup, version 2, and of its network namespace. Reads only.

Formats: Documentation/admin-guide/cgroup-v2.rst and Documentation/accounting/psi.rst of Linux. A file that is missing
belongs to a controller that is off, or to a workload that has just ended: what it would say is zero or unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.errors import HostctlError

RESOURCES = ("cpu", "memory", "io")
READ_LIMIT = 1 << 20  # bytes of any file here; io.stat has a line a disk


class NoCgroupError(HostctlError):
    """A process is in no cgroup of version 2."""

    id = "no-cgroup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """How much of the last 10 seconds was lost waiting for a resource, in percent, and all time lost, in seconds.

    ``some``: at least one task waited; ``full``: all of them did.
    """

    some: float = 0.0
    full: float = 0.0
    some_seconds: float = 0.0
    full_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a workload has used so far, and may use; times in seconds, sizes in bytes, no limit is None."""

    cpu_seconds: float = 0.0
    throttled_seconds: float = 0.0
    memory: int = 0
    memory_cache: int = 0
    """The part of memory that the kernel gives back when it is needed: file pages that were not used lately."""
    memory_peak: int = 0
    memory_limit: int | None = None
    swap: int = 0
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int | None = None
    read_bytes: int = 0
    written_bytes: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    pressure: Mapping[str, Pressure] = field(default_factory=dict)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(READ_LIMIT).decode("ascii", "replace")
    except OSError:
        return ""


def numbers(text: str) -> dict[str, int]:
    """Return a flat-keyed file, as cpu.stat, by its keys."""
    pairs = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].isdigit()}


def limit(text: str) -> int | None:
    """Return a limit; None for ``max``, or for nothing at all."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def io_bytes(text: str) -> tuple[int, int]:
    """Return the bytes read and written in io.stat, over all disks."""
    totals = {"rbytes": 0, "wbytes": 0}
    for line in text.splitlines():
        for word in line.split()[1:]:
            key, _, value = word.partition("=")
            if key in totals and value.isdigit():
                totals[key] += int(value)
    return totals["rbytes"], totals["wbytes"]


def pressure(text: str) -> Pressure:
    """Return what a pressure file says."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        found[kind] = {key: float(value) for key, _, value in (word.partition("=") for word in words) if value}
    some, full = found.get("some", {}), found.get("full", {})
    return Pressure(
        some=some.get("avg10", 0.0),
        full=full.get("avg10", 0.0),
        some_seconds=some.get("total", 0.0) / 1e6,
        full_seconds=full.get("total", 0.0) / 1e6,
    )


def network_bytes(text: str) -> tuple[int, int]:
    """Return the bytes received and sent in /proc/PID/net/dev, but those over loopback (proc_pid_net(5))."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        words = counters.split()
        if colon and name.strip() != "lo" and len(words) >= 9 and words[0].isdigit() and words[8].isdigit():
            received += int(words[0])
            sent += int(words[8])
    return received, sent


def read(folder: Path, net_dev: Path | None = None) -> Usage:
    """Return what the workload with the cgroup ``folder`` uses.

    Args:
        folder: below /sys/fs/cgroup.
        net_dev: the net/dev of one of its processes; none if it has no network of its own.
    """
    processor = numbers(_text(folder / "cpu.stat"))
    memory = numbers(_text(folder / "memory.stat"))
    read_bytes, written_bytes = io_bytes(_text(folder / "io.stat"))
    received, sent = network_bytes(_text(net_dev)) if net_dev else (0, 0)
    return Usage(
        cpu_seconds=processor.get("usage_usec", 0) / 1e6,
        throttled_seconds=processor.get("throttled_usec", 0) / 1e6,
        memory=limit(_text(folder / "memory.current")) or 0,
        memory_cache=memory.get("inactive_file", 0),
        memory_peak=limit(_text(folder / "memory.peak")) or 0,
        memory_limit=limit(_text(folder / "memory.max")),
        swap=limit(_text(folder / "memory.swap.current")) or 0,
        oom_kills=numbers(_text(folder / "memory.events")).get("oom_kill", 0),
        pids=limit(_text(folder / "pids.current")) or 0,
        pids_limit=limit(_text(folder / "pids.max")),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        received_bytes=received,
        sent_bytes=sent,
        pressure={name: pressure(_text(folder / f"{name}.pressure")) for name in RESOURCES},
    )


def cgroup_of(pid: int, root: Path = Path("/")) -> Path:
    """Return the folder of a process's cgroup (cgroups(7), version 2).

    Raises:
        NoCgroupError: it has none.
        OSError: there is no such process.
    """
    for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return root / "sys/fs/cgroup" / line[3:].lstrip("/")
    raise NoCgroupError(f"process {pid} is in no cgroup of version 2")


def processes(folder: Path) -> tuple[int, ...]:
    """Return the ids of all processes in a cgroup and below it, as this process sees them."""
    found: set[int] = set()
    for path in _folders(folder):
        found.update(int(word) for word in _text(path / "cgroup.procs").split() if word.isdigit() and word != "0")
    return tuple(sorted(found))


def _folders(folder: Path) -> Iterable[Path]:
    yield folder
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return
    for path in below:
        yield from _folders(path)
