"""The processes of a workload, as the kernel shows them in /proc (proc(5)). Reads only, and not as root alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.agent import cgroups, overview
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.overview import NotRunningError
from hostctl.layout import HostLayout
from hostctl.workload.identity import range_start

LINE = 4096  # bytes of a command line that are read


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process. ``inside`` is its id in the workload, ``user`` its user there; times in seconds.

    ``user`` is -1 when the process belongs to nobody of the workload's own range.
    """

    pid: int
    inside: int
    parent: int
    user: int
    state: str
    cpu_seconds: float
    resident: int
    age: float
    command: str


def parse(
    *, status: str, stat: str, command: bytes, uptime: float, first_id: int, ticks: int = 100, page: int = 4096
) -> Process:
    """Return a process from the texts of its files.

    Args:
        status: /proc/PID/status.
        stat: /proc/PID/stat; the name in it may hold anything, so it is read from the last parenthesis on.
        command: /proc/PID/cmdline.
        uptime: seconds since the boot.
        first_id: the host's number of the workload's user 0.
        ticks: a second's clock ticks.
        page: bytes of a page.

    Raises:
        ValueError, KeyError, IndexError: they are not such files.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    counters = stat.rpartition(")")[2].split()
    user = int(fields["Uid"].split()[1])
    words = command.rstrip(b"\0").split(b"\0")
    shown = " ".join(word.decode("utf-8", "replace") for word in words).strip()
    return Process(
        pid=int(stat.partition(" ")[0]),
        inside=int(fields["NSpid"].split()[-1]),
        parent=int(counters[1]),
        user=user - first_id if first_id <= user < first_id + 65536 else -1,
        state=counters[0],
        cpu_seconds=(int(counters[11]) + int(counters[12])) / ticks,
        resident=int(counters[21]) * page,
        age=max(0.0, uptime - int(counters[19]) / ticks),
        command=shown or f"[{fields['Name'].strip()}]",
    )


def read(pids: Sequence[int], first_id: int, proc: Path = Path("/proc")) -> tuple[Process, ...]:
    """Return the processes that still are there."""
    uptime = float((proc / "uptime").read_text().split()[0])
    found = []
    for pid in pids:
        folder = proc / str(pid)
        try:
            with (folder / "cmdline").open("rb") as file:
                command = file.read(LINE)
            process = parse(
                status=(folder / "status").read_text(errors="replace"),
                stat=(folder / "stat").read_text(errors="replace"),
                command=command,
                uptime=uptime,
                first_id=first_id,
                ticks=os.sysconf("SC_CLK_TCK"),
                page=os.sysconf("SC_PAGE_SIZE"),
            )
        except (OSError, ValueError, KeyError, IndexError):  # it has ended meanwhile
            continue
        found.append(process)
    return tuple(found)


def of_workload(name: str, layout: HostLayout, machine: Machine) -> tuple[Process, ...]:
    """Return the processes of a workload.

    Raises:
        UnknownWorkloadError: it is not declared.
        NotRunningError: it does not run.
    """
    stored = overview.require(name, layout)
    key = stored.record.key(name)
    unit = workload_unit(key)
    state = machine.states([unit]).get(unit)
    if state is None or not state.main_pid:
        raise NotRunningError(f"workload {name} is not running", hint=f"hostctl start {name}")
    pids = cgroups.processes(cgroups.cgroup_of(state.main_pid))
    return read(pids, range_start(stored.record.range_of(key)))
