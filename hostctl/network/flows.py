"""Which flows of UDP that the kernel remembers lead elsewhere than the published port that they ask for. Pure.

The kernel decides where a connection leads at its first packet and remembers it until there has been none for a while.
UDP has no end but that silence, so who sends on and on from one port, as syslog does, would never reach a port that is
published after they began, or a workload that has another address since. What is right here is what
:mod:`hostctl.network.nftables` decides of a first packet, so what goes is decided anew, and nothing that stays would be
decided otherwise. Any replica is right, whether it serves or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hostctl.config.references import PortMapping
from hostctl.network.model import Address, NetworkPlan, targets
from hostctl.network.nftables import DNS, RESOLVED

NEVER_REDIRECTED: frozenset[Address] = frozenset([*map(IPv4Address, RESOLVED), IPv6Address("::1")])


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """What the kernel remembers of one flow: who was asked at which port, and who answers from which."""

    asked: Address
    port: int
    answers: Address
    answers_from: int
    key: bytes = b""
    """What the kernel finds it by; of no meaning here."""


def publishes(plan: NetworkPlan) -> bool:
    """Tell whether any port is published whose flows have no end."""
    return any(port.protocol == "udp" for workload in plan.workloads for port in workload.ports)


def stale(plan: NetworkPlan, flows: Iterable[Flow], local: Collection[Address]) -> Iterator[Flow]:
    """Yield those flows of UDP that ask for a published port and lead elsewhere.

    Args:
        plan: what is published.
        flows: all that the kernel remembers.
        local: the host's own addresses; the same port of anybody else is none of ours.
    """
    ways = list(_ways(plan))
    gateways = {address for network in plan.bridges for address in (network.gateway, network.gateway6)}
    for flow in flows:
        right = [
            (to, flow.port - port.host_port + port.container_port)
            for port, at, to in ways
            if 0 <= flow.port - port.host_port < port.count and flow.asked.version == to.version
            if at in (None, flow.asked)
        ]
        if not right or (flow.answers, flow.answers_from) in right or flow.asked in NEVER_REDIRECTED:
            continue
        to_names = flow.port == DNS and flow.asked in gateways
        if not to_names and (flow.asked in local or flow.asked.is_loopback):
            yield flow


def _ways(plan: NetworkPlan) -> Iterator[tuple[PortMapping, Address | None, Address]]:
    """Yield the published ports of UDP with the address that each is at, none means all, and the one it leads to."""
    for workload in plan.workloads:
        place = plan.way_in(workload)
        if place is not None and not workload.standby:
            for port in workload.ports:
                yield from ((port, at, to) for at, to in targets(place, port) if port.protocol == "udp")
