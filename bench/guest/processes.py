"""Runs on the measured host: prints, as JSON, what is resident of hostctl and of each container's unit.

Arguments: units of containers. A process is a helper when it is in the unit's control group and in the host's PID
namespace; what is inside the container's is either the init that the container was given, or the image's own program.
Sizes are proportional set sizes (Pss of smaps_rollup, proc_pid_smaps(5)): pages that several map count once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
INITS = ("catatonit", "init")


def pss(process: Path) -> int:
    """Return the proportional set size of a process in KiB."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def described(process: Path, own_namespace: str) -> dict[str, object]:
    """Return what is printed of one process."""
    name = (process / "comm").read_text().strip()
    inside = str((process / "ns/pid").readlink()) != own_namespace
    role = "helper" if not inside else "init" if name in INITS else "program"
    return {"pid": int(process.name), "name": name, "role": role, "kib": pss(process)}


def group_of(process: Path) -> str:
    """Return the path of a process's control group."""
    return (process / "cgroup").read_text().strip().rpartition("::")[2]


def main() -> None:
    """Look at every process once."""
    own = str((PROC / "self/ns/pid").readlink())
    ours: list[dict[str, object]] = []
    units: dict[str, list[dict[str, object]]] = {unit: [] for unit in sys.argv[1:]}
    for process in PROC.iterdir():
        if not process.name.isdigit() or process.name == str(PROC.joinpath("self").readlink()):
            continue
        try:
            words = (process / "cmdline").read_bytes()
            if not words:
                continue  # of the kernel, or ended
            group = group_of(process)
            for unit, found in units.items():
                if f"/{unit}/" in f"{group}/":
                    found.append(described(process, own))
            if b"hostctl" in words:
                ours.append(described(process, own))
        except (FileNotFoundError, ProcessLookupError):
            continue
    meminfo = dict(line.split(":") for line in PROC.joinpath("meminfo").read_text().splitlines())
    used = int(meminfo["MemTotal"].split()[0]) - int(meminfo["MemAvailable"].split()[0])
    print(json.dumps({"ours": ours, "units": units, "used_kib": used}))


main()
