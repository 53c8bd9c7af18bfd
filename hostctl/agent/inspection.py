"""A workload in Docker's words: the keys of ``docker inspect`` that mean the same here. Pure.

Made of the bundle that the runtime gets, of systemd's properties and of the network plan, not of the declaration alone:
what is shown is what runs. Keys that have no meaning here, as storage drivers and log paths, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hostctl.agent.machine import exit_status
from hostctl.agent.network_view import NetworkView
from hostctl.agent.overview import WorkloadStatus

PROPERTIES = (
    *("ExecMainStartTimestamp", "ExecMainExitTimestamp", "ExecMainCode", "ExecMainStatus", "Result", "InvocationID"),
    *("MemoryMax", "CPUQuotaPerSecUSec", "TasksMax", "Restart", "KillSignal", "ControlGroup"),
)
NEVER = "0001-01-01T00:00:00Z"  # Docker's word for a time that has not been
VOLUMES = "/var/lib/hostctl/volumes/"
_UNITS = {"us": 1, "ms": 1000, "s": 10**6, "min": 60 * 10**6}


def moment(text: str) -> str:
    """Return a time of ``systemctl show --timestamp=unix`` in RFC 3339."""
    digits = text.removeprefix("@")
    return datetime.fromtimestamp(int(digits), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if digits.isdigit() else NEVER


def _count(text: str) -> int:
    """Return a limit as Docker gives it, where 0 is none."""
    return int(text) if text.isdigit() else 0


def nano_cpus(text: str) -> int:
    """Return a processor quota as Docker gives it, from systemd's time per second, as in ``500ms`` or ``1.5s``."""
    total = 0.0
    for word in text.split():
        unit = next((unit for unit in ("us", "ms", "min", "s") if word.endswith(unit)), "")
        try:
            total += float(word.removesuffix(unit)) * _UNITS[unit]
        except (ValueError, KeyError):  # "infinity"
            return 0
    return int(total * 1000)


def port_bindings(ports: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Return published ports, written [ADDRESS:]HOST:CONTAINER[/PROTOCOL], by the container's."""
    made: dict[str, list[dict[str, str]]] = {}
    for text in ports:
        mapping, _, protocol = text.partition("/")
        rest, _, container = mapping.rpartition(":")
        address, _, host = rest.rpartition(":")
        binding = {"HostIp": address.strip("[]") or "0.0.0.0", "HostPort": host}  # noqa: S104 - shown, not bound
        made.setdefault(f"{container}/{protocol or 'tcp'}", []).append(binding)
    return made


def mounts(bundle: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return what is mounted from outside: volumes and other bind mounts, as the runtime gets them."""
    found: list[dict[str, object]] = []
    for mount in bundle.get("mounts", []):
        if mount.get("type") != "bind" or str(mount["destination"]).startswith(("/dev/", "/etc/", "/run/hostctl/")):
            continue
        source = str(mount["source"])
        volume = source.removeprefix(VOLUMES) if source.startswith(VOLUMES) else ""
        found.append(
            {
                "Type": "volume" if volume else "bind",
                "Name": volume,
                "Source": source,
                "Destination": mount["destination"],
                "RW": "ro" not in mount.get("options", []),
            }
        )
    return found


def _state(status: WorkloadStatus, shown: Mapping[str, str]) -> dict[str, object]:
    state: dict[str, object] = {
        "Status": status.word,
        "Running": status.state == "active",
        "Paused": status.paused,
        "Restarting": status.state == "activating",
        "OOMKilled": shown.get("Result") == "oom-kill",
        "Pid": status.main_pid,
        "ExitCode": exit_status(shown) if status.state != "active" else 0,
        "StartedAt": moment(shown.get("ExecMainStartTimestamp", "")),
        "FinishedAt": moment(shown.get("ExecMainExitTimestamp", "")),
    }
    return state | ({"Health": {"Status": status.health}} if status.health else {})


def network_settings(name: str, networks: Sequence[NetworkView]) -> dict[str, object]:
    """Return the networks of a workload; address and gateway are also those of the first."""
    own = {
        each.name: {
            "IPAddress": place.address,
            "GlobalIPv6Address": place.address6,
            "Gateway": each.gateway,
            "Aliases": list(place.aliases),
        }
        for each in networks
        if (place := each.workloads.get(name)) is not None
    }
    first = next(iter(own.values()), {"IPAddress": "", "Gateway": ""})
    return {"IPAddress": first["IPAddress"], "Gateway": first["Gateway"], "Networks": own}


def describe(
    status: WorkloadStatus, bundle: Mapping[str, Any], shown: Mapping[str, str], networks: Sequence[NetworkView]
) -> dict[str, object]:
    """Return the document.

    Args:
        status: the workload's row.
        bundle: its config.json.
        shown: :data:`PROPERTIES` of its unit.
        networks: all of the generation's.
    """
    process = bundle.get("process", {})
    user = process.get("user", {})
    ports = port_bindings(status.ports)
    memory = _count(shown.get("MemoryMax", ""))
    return {
        "Id": shown.get("InvocationID", ""),
        "Name": status.name,
        "Image": status.digest,
        "RestartCount": status.restarts,
        "State": _state(status, shown),
        "Config": {
            "Hostname": bundle.get("hostname", ""),
            "User": f"{user.get('uid', 0)}:{user.get('gid', 0)}",
            "Env": process.get("env", []),
            "Cmd": process.get("args", []),
            "WorkingDir": process.get("cwd", "/"),
            "Image": status.image,
            "StopSignal": shown.get("KillSignal", ""),
            "Tty": process.get("terminal", False),
        },
        "HostConfig": {
            "Memory": memory,
            "NanoCpus": nano_cpus(shown.get("CPUQuotaPerSecUSec", "")),
            "PidsLimit": _count(shown.get("TasksMax", "")),
            "RestartPolicy": {"Name": shown.get("Restart", "")},
            "ReadonlyRootfs": bundle.get("root", {}).get("readonly", False),
            "PortBindings": ports,
            "CgroupParent": shown.get("ControlGroup", "").rpartition("/")[0],
        },
        "Mounts": mounts(bundle),
        "NetworkSettings": {
            **network_settings(status.name, networks),
            "Ports": ports,
        },
    }
