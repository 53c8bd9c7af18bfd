"""What a workload may use, as settings of its systemd unit and as the process limits of its container.

Pure. The unit's cgroup is the container's: crun is told to leave cgroups alone, so the kernel's limits come from here
and nowhere else. Limits of processes are set twice: by the unit, which may raise them, and in the bundle, where they
also hold for commands that are run in the container later.
Formats: systemd.resource-control(5), systemd.exec(5); runtime-spec 1.2, config.md, "POSIX process".
"""

from __future__ import annotations

from hostctl.config.values import Ulimit
from hostctl.config.workload import IoLimits, Workload

DEFAULT_ULIMITS = {
    "core": Ulimit(soft=0, hard=0),
    "nofile": Ulimit(soft=65536, hard=524288),  # systemd's own hard limit, and a soft one that servers can live with
}
_RLIM_INFINITY = (1 << 64) - 1


def ulimits(workload: Workload) -> dict[str, Ulimit]:
    """Return the limits of each process, by name as in ``nofile``: the default ones, and over them the declared."""
    return dict(sorted({**DEFAULT_ULIMITS, **{str(name): limit for name, limit in workload.ulimits.items()}}.items()))


def rlimits(workload: Workload) -> list[dict[str, object]]:
    """Return ``process.rlimits`` of the container."""
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": _RLIM_INFINITY if limit.soft is None else limit.soft,
            "hard": _RLIM_INFINITY if limit.hard is None else limit.hard,
        }
        for name, limit in ulimits(workload).items()
    ]


def _io(io: IoLimits) -> list[tuple[str, str]]:
    settings = [("IOWeight", str(io.weight))] if io.weight is not None else []
    for key, limits in (
        ("IOReadBandwidthMax", io.read_bps),
        ("IOWriteBandwidthMax", io.write_bps),
        ("IOReadIOPSMax", io.read_iops),
        ("IOWriteIOPSMax", io.write_iops),
    ):
        settings += [(key, f"{device} {int(limit)}") for device, limit in limits.items()]
    return settings


def settings(workload: Workload) -> list[tuple[str, str]]:
    """Return the settings of the unit's ``[Service]`` section, in order, as they are written.

    All of them are numbers and device nodes: nothing in them means more than itself to systemd.
    """
    made = [("TasksMax", str(workload.pids))]
    if workload.memory is not None:
        made += [("MemoryMax", str(int(workload.memory)))]
    if workload.memory_swap is not None or workload.memory is not None:
        made += [("MemorySwapMax", str(int(workload.memory_swap or 0)))]
    if workload.memory_high is not None:
        made += [("MemoryHigh", str(int(workload.memory_high)))]
    if workload.memory_reservation is not None:
        made += [("MemoryLow", str(int(workload.memory_reservation)))]
    if workload.cpus is not None:
        made += [("CPUQuota", f"{float(workload.cpus) * 100:.2f}%".replace(".00%", "%"))]
    if workload.cpu_weight is not None:
        made += [("CPUWeight", str(workload.cpu_weight))]
    if workload.cpuset is not None:
        made += [("AllowedCPUs", str(workload.cpuset))]
    if workload.io is not None:
        made += _io(workload.io)
    made += [("DeviceAllow", f"{device.source} {device.access}") for device in workload.devices]
    if workload.logging is not None:
        made += [("LogRateLimitBurst", str(workload.logging.rate_limit))]
        made += [("LogRateLimitIntervalSec", str(workload.logging.rate_interval))]
    if workload.oom_score_adj:
        made += [("OOMScoreAdjust", str(workload.oom_score_adj))]
    for name, limit in ulimits(workload).items():
        words = ("infinity" if number is None else str(number) for number in (limit.soft, limit.hard))
        made += [(f"Limit{name.upper()}", ":".join(words))]
    return made
