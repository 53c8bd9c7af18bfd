"""The networks of the generation in force, as a reader of its ``network.json``: who is on which, with which address.

Reads what is there and no more: what a network may be is decided by :mod:`hostctl.network`. Formats 1 and 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hostctl.agent.generation import Stored
from hostctl.config.networks import DEFAULT
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.workload.instance import labels


class UnknownNetworkError(HostctlError):
    """There is no network of this name."""

    id = "unknown-network"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A workload's addresses on one network."""

    address: str
    address6: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkView:
    """One network; what it has not is empty."""

    name: str
    driver: str
    subnet: str
    gateway: str
    subnet6: str = ""
    internal: bool = False
    mtu: int | None = None
    workloads: Mapping[str, Place] = field(default_factory=dict)


def networks(document: Mapping[str, Any]) -> tuple[NetworkView, ...]:
    """Return the networks of a plan, by name.

    Args:
        document: network.json.
    """
    if not document:
        return ()
    workloads = document.get("workloads", {})
    called = labels(str(key) for key in workloads)
    if "networks" not in document:
        on = {str(name): Place(address=str(each["address"])) for name, each in sorted(workloads.items())}
        return (
            NetworkView(
                name=DEFAULT,
                driver="bridge",
                subnet=str(document["subnet"]),
                gateway=str(document["gateway"]),
                workloads=on,
            ),
        )
    found = []
    for name, each in sorted(document["networks"].items()):
        on = {
            called[str(workload)]: Place(
                address=str(place["address"]),
                address6=str(place.get("address6") or ""),
                aliases=tuple(str(alias) for alias in place.get("aliases", ())),
            )
            for workload, settings in sorted(workloads.items())
            for place in settings["attachments"]
            if place["network"] == name
        }
        found.append(
            NetworkView(
                name=str(name),
                driver=str(each.get("driver", "bridge")),
                subnet=str(each["subnet"]),
                gateway=str(each.get("gateway") or ""),
                subnet6=str(each.get("subnet6") or ""),
                internal=bool(each.get("internal", False)),
                mtu=each.get("mtu"),
                workloads=on,
            )
        )
    return tuple(found)


def read(stored: Stored | None) -> tuple[NetworkView, ...]:
    """Return the networks of a generation; none if its plan cannot be read."""
    if stored is None:
        return ()
    try:
        return networks(json.loads((stored.path / "network.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def named(found: Sequence[NetworkView], name: str) -> NetworkView:
    """Return the network of a name.

    Raises:
        UnknownNetworkError: there is none.
    """
    known = {each.name: each for each in found}
    if name not in known:
        raise UnknownNetworkError(f"there is no network {name!r}", hint=f"there is {', '.join(known) or 'none'}")
    return known[name]


def docker(network: NetworkView) -> dict[str, object]:
    """Return a network with Docker's keys, and ours beside them."""
    return {
        "Name": network.name,
        "Driver": network.driver,
        "Internal": network.internal,
        "IPAM": {"Config": {"Subnet": network.subnet, "Gateway": network.gateway, "Subnet6": network.subnet6}},
        "Containers": {
            name: {"Name": name, "IPv4Address": place.address, "IPv6Address": place.address6}
            for name, place in network.workloads.items()
        },
        **asdict(network),
    }
