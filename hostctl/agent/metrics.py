"""The host's metrics as text for Prometheus (exposition format 0.0.4). Pure but for :func:`collect`.

Names are kept: a metric is added, never renamed. Counters end in ``_total`` and begin anew with a run of the workload.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hostctl import __version__
from hostctl.agent import overview, usage
from hostctl.agent.cgroups import Usage
from hostctl.agent.machine import Machine
from hostctl.agent.overview import Status, WorkloadStatus
from hostctl.layout import HostLayout
from hostctl.update import state
from hostctl.update.state import UpdateState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that is told; ``free`` is bytes by mount point, ``now`` seconds since 1970."""

    status: Status
    update: UpdateState
    usage: Mapping[str, Usage] = field(default_factory=dict)
    free: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Free and all bytes of file systems."""
    memory: int = 0
    available: int = 0
    now: float = 0.0


def escape(text: str) -> str:
    """Return a label's value, as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Page:
    """Collects metrics, each with its help and type once, before all of its samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        """Add one metric; without samples it is left out."""
        lines = []
        for labels, value in samples:
            inner = ",".join(f'{key}="{escape(shown)}"' for key, shown in labels.items())
            shown = f"{value:.0f}" if float(value).is_integer() and math.isfinite(value) else repr(float(value))
            lines.append(f"{name}{{{inner}}} {shown}" if inner else f"{name} {shown}")
        if lines:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]

    def text(self) -> str:
        """Return the page."""
        return "".join(f"{line}\n" for line in self._lines)


WORKLOAD_USAGE: tuple[tuple[str, str, str, str], ...] = (
    ("cpu_seconds_total", "counter", "Processor time.", "cpu_seconds"),
    ("cpu_throttled_seconds_total", "counter", "Time in which the processor limit held it back.", "throttled_seconds"),
    ("memory_bytes", "gauge", "Memory, with cached files.", "memory"),
    ("memory_cache_bytes", "gauge", "Cached files that were not used lately.", "memory_cache"),
    ("memory_peak_bytes", "gauge", "Most memory of this run.", "memory_peak"),
    ("memory_limit_bytes", "gauge", "Most memory it may use.", "memory_limit"),
    ("swap_bytes", "gauge", "Swap.", "swap"),
    ("oom_kills_total", "counter", "Processes killed for lack of memory.", "oom_kills"),
    ("pids", "gauge", "Processes and threads.", "pids"),
    ("pids_limit", "gauge", "Most processes and threads it may have.", "pids_limit"),
    ("io_read_bytes_total", "counter", "Read from disks.", "read_bytes"),
    ("io_written_bytes_total", "counter", "Written to disks.", "written_bytes"),
    ("network_received_bytes_total", "counter", "Received over its network.", "received_bytes"),
    ("network_sent_bytes_total", "counter", "Sent over its network.", "sent_bytes"),
)


def render(facts: Facts) -> str:
    """Return the page of a host."""
    page = Page()
    _host(page, facts)
    _workloads(page, facts.status.workloads, facts.now)
    for suffix, kind, text, name in WORKLOAD_USAGE:
        samples = (({"workload": workload}, getattr(used, name)) for workload, used in facts.usage.items())
        known = ((labels, float(value)) for labels, value in samples if value is not None)
        page.add(f"hostctl_workload_{suffix}", kind, text, known)
    pressure = (
        ({"workload": workload, "resource": resource, "kind": kind}, seconds)
        for workload, used in facts.usage.items()
        for resource, found in used.pressure.items()
        for kind, seconds in (("some", found.some_seconds), ("full", found.full_seconds))
    )
    page.add("hostctl_workload_pressure_seconds_total", "counter", "Time lost waiting for a resource.", pressure)
    return page.text()


def _host(page: Page, facts: Facts) -> None:
    status = facts.status
    what = {"hostname": status.hostname, "release": status.release, "version": __version__}
    page.add("hostctl_info", "gauge", "What runs; always 1.", [(what, 1)])
    states = [({"state": word}, float(word == status.state)) for word in ("running", "starting", "degraded")]
    page.add("hostctl_state", "gauge", "1 for the state that the host is in.", states)
    page.add("hostctl_generation", "gauge", "Number of the generation in force.", [({}, status.generation)])
    page.add("hostctl_problems", "gauge", "What keeps state from being kept.", [({}, len(status.problems))])
    slots = [({"release": release}, float(release == status.release)) for release in status.releases]
    page.add("hostctl_slot_running", "gauge", "Releases in the slots; 1 for the one that runs.", slots)
    bad = [({"release": release}, 1.0) for release in status.bad]
    page.add("hostctl_release_bad", "gauge", "Releases that were tried and will not be taken again.", bad)
    failure = facts.update.failure
    labels = {"release": failure.version, "stage": failure.stage} if failure else {}
    page.add("hostctl_update_failed", "gauge", "1 if the last update failed.", [(labels, float(failure is not None))])
    page.add("hostctl_update_busy", "gauge", "1 while an update is at work.", [({}, float(bool(facts.update.busy)))])
    staged = [({"release": facts.update.staged}, 1.0)] if facts.update.staged else []
    page.add("hostctl_update_staged", "gauge", "The release that the next boot starts.", staged)
    free = [({"mount": mount}, float(left)) for mount, (left, _) in facts.free.items()]
    page.add("hostctl_filesystem_free_bytes", "gauge", "Free space.", free)
    sizes = [({"mount": mount}, float(size)) for mount, (_, size) in facts.free.items()]
    page.add("hostctl_filesystem_size_bytes", "gauge", "Size.", sizes)
    page.add("hostctl_memory_bytes", "gauge", "Memory of the host.", [({}, facts.memory)])
    page.add("hostctl_memory_available_bytes", "gauge", "Memory that can be had.", [({}, facts.available)])


def _workloads(page: Page, rows: Iterable[WorkloadStatus], now: float) -> None:
    rows = tuple(rows)
    images = [({"workload": row.name, "image": row.image, "digest": row.digest}, 1.0) for row in rows]
    page.add("hostctl_workload_info", "gauge", "What a workload runs; always 1.", images)

    def each(name: str, kind: str, text: str, values: Mapping[str, float]) -> None:
        page.add(f"hostctl_workload_{name}", kind, text, [({"workload": key}, value) for key, value in values.items()])

    each("up", "gauge", "1 if it runs.", {row.name: float(row.state == "active") for row in rows})
    each("paused", "gauge", "1 if it is paused.", {row.name: float(row.paused) for row in rows})
    checked = {row.name: float(row.health == "healthy") for row in rows if row.health}
    each("healthy", "gauge", "1 if its last check passed; absent where there is none.", checked)
    each("restarts_total", "counter", "Restarts by systemd.", {row.name: float(row.restarts) for row in rows})
    started = {row.name: round(now - row.up_for, 1) for row in rows if row.up_for > 0}
    each("start_time_seconds", "gauge", "When it was started, since 1970.", started)
    ended = {row.name: float(row.exit_status) for row in rows if row.state != "active"}
    each("exit_status", "gauge", "Exit status of the last run, of those that do not run.", ended)


def collect(layout: HostLayout, machine: Machine) -> Facts:
    """Look at the host; whoever runs this needs no rights."""
    memory = usage.memory_of(layout.root)
    status = overview.status(layout, machine)
    running = usage.running(layout, machine)
    return Facts(
        status=status,
        update=state.read(layout),
        usage=usage.sample(running).workloads,
        free={mount: _space(layout.root / mount.lstrip("/")) for mount in ("/var", "/run")},
        memory=memory.get("MemTotal", 0),
        available=memory.get("MemAvailable", 0),
        now=time.time(),
    )


def _space(path: os.PathLike[str]) -> tuple[int, int]:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
