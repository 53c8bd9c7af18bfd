"""The names of workloads: the files that the name server aardvark-dns reads, one a network.

It listens at the gateway's addresses of every bridge. Who asks is known by the address, and gets the names of the
networks that they are on; what is no such name is asked of the workload's declared servers or of the host's, unless all
of its networks are internal. The name of a workload with replicas is on the line of each, so the answer has the
addresses of all; each has its own name as well. A change of the files takes effect by a signal, and restarts nothing.

Format: aardvark-dns 1.14, src/config/mod.rs. The first line of a file holds the addresses to listen at, each other line
a workload: an id, IPv4 addresses, IPv6 addresses, names, name servers; fields are separated by one space, and what
is in a field by commas. A file that ends in ``%int`` is of an internal network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hostctl.layout import HostLayout
from hostctl.network.model import Attachment, Network, NetworkPlan, WorkloadNetwork
from hostctl.workload import instance

FOLDER = "names"
INTERNAL = "%int"
PID_FILE = "aardvark.pid"
"""The server writes it, and does not start if it cannot. It is the only file there that the server may write, and
nobody reads it."""


def tables(plan: NetworkPlan) -> Mapping[str, str]:
    """Return the server's files by name; none for a network that nobody is on."""
    return {f"{network.name}{INTERNAL if network.internal else ''}": _table(plan, network) for network in plan.bridges}


def _table(plan: NetworkPlan, network: Network) -> str:
    gateways = [network.gateway, *([network.gateway6] if network.gateway6 is not None else [])]
    lines = [",".join(map(str, gateways))]
    called = instance.labels(workload.key for workload in plan.workloads)
    lines += [
        _line(workload, place, called[workload.key])
        for workload in plan.workloads
        for place in workload.attachments
        if place.network == network.name
    ]
    return "".join(f"{line}\n" for line in lines)


def _line(workload: WorkloadNetwork, place: Attachment, label: str) -> str:
    # Who asks is known by their line, so the one that stands by needs one too, with a name that nobody asks for.
    names = dict.fromkeys((workload.key,) if workload.standby else (workload.name, label, *place.aliases))
    address6 = str(place.address6) if place.address6 is not None else ""
    fields = [workload.key, str(place.address), address6, ",".join(names), ",".join(workload.dns)]
    return " ".join(fields if workload.dns else fields[:-1])


def write(layout: HostLayout, wanted: Mapping[str, str]) -> None:
    """Write the server's files, each whole at any moment, and remove those of networks that are gone.

    Raises:
        OSError: it cannot be done.
    """
    folder = layout.runtime / FOLDER
    if not wanted and not folder.exists():
        return
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    pid = folder / PID_FILE
    if not pid.exists():
        pid.touch()
        pid.chmod(0o666)  # the server's user is a passing one
    for name, text in wanted.items():
        _replace(folder / name, layout.runtime / f"{FOLDER}.new", text)
    for path in folder.iterdir():
        if path.name not in wanted and path != pid:
            path.unlink()


def _replace(path: Path, scratch: Path, text: str) -> None:
    """Put a file in place by one rename: the server takes every file of its folder for a network."""
    try:
        if path.read_text() == text:
            return
    except FileNotFoundError:
        pass
    scratch.write_text(text)
    scratch.chmod(0o644)
    scratch.replace(path)
