"""What workloads use: samples of their cgroups, and the rates between two of them. Read without the agent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.agent import cgroups, generation, overview
from hostctl.agent.cgroups import Usage
from hostctl.agent.machine import Machine, workload_unit
from hostctl.layout import HostLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What each running workload had used at a moment; ``at`` is CLOCK_MONOTONIC in seconds."""

    at: float
    workloads: Mapping[str, Usage]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One workload as ``stats`` shows it. ``cpu`` is in percent of one processor, sizes are in bytes."""

    name: str
    cpu: float
    memory: int
    memory_limit: int
    memory_percent: float
    pids: int
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """Where a running workload is counted."""

    cgroup: Path
    net_dev: Path | None


def running(layout: HostLayout, machine: Machine, names: Sequence[str] = ()) -> Mapping[str, Running]:
    """Return the running workloads, of ``names`` if there are any, and of each all replicas.

    Raises:
        UnknownWorkloadError: one of ``names`` is not declared.
    """
    for name in names:
        overview.require(name, layout)
    stored = generation.current(layout)
    wanted = sorted(names or stored.record.images) if stored else []
    units = {
        stored.record.label(key): workload_unit(key) for name in wanted if stored for key in stored.record.named(name)
    }
    states = machine.states(list(units.values()))
    found: dict[str, Running] = {}
    host = _namespace(Path("/proc/self"))
    for name, unit in units.items():
        state = states.get(unit)
        if state is None or not state.main_pid:
            continue
        process = Path(f"/proc/{state.main_pid}")
        try:
            cgroup = cgroups.cgroup_of(state.main_pid)
        except (OSError, cgroups.NoCgroupError):
            continue
        own = _namespace(process)
        # The counters of the host's network are not the workload's; who may not look gets what the files say.
        found[name] = Running(cgroup=cgroup, net_dev=process / "net/dev" if not own or own != host else None)
    return found


def _namespace(process: Path) -> str:
    try:
        return str((process / "ns/net").readlink())
    except OSError:
        return ""


def sample(workloads: Mapping[str, Running]) -> Sample:
    """Read the counters."""
    return Sample(
        at=time.monotonic(),
        workloads={name: cgroups.read(each.cgroup, each.net_dev) for name, each in workloads.items()},
    )


def figures(before: Sample, after: Sample, host_memory: int) -> tuple[Figures, ...]:
    """Return what was used between two samples, by name.

    A workload that was restarted in between, so that its counters began anew, is counted from its start.

    Args:
        before: the earlier sample.
        after: the later one, which decides on who is shown.
        host_memory: bytes of the machine, the limit of who has none.
    """
    elapsed = max(after.at - before.at, 1e-6)
    made = []
    for name, usage in sorted(after.workloads.items()):
        former = before.workloads.get(name, Usage())
        spent = usage.cpu_seconds - former.cpu_seconds
        used = max(0, usage.memory - usage.memory_cache)
        most = min(usage.memory_limit or host_memory, host_memory)
        made.append(
            Figures(
                name=name,
                cpu=100 * (spent if spent >= 0 else usage.cpu_seconds) / elapsed,
                memory=used,
                memory_limit=most,
                memory_percent=100 * used / most if most else 0.0,
                pids=usage.pids,
                usage=usage,
            )
        )
    return tuple(made)


def memory_of(root: Path = Path("/")) -> Mapping[str, int]:
    """Return the fields of /proc/meminfo in bytes (proc_meminfo(5))."""
    found = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def host_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory of this machine."""
    return memory_of(root).get("MemTotal", 0)
