"""What the networks of the workloads are: the plan that a generation stores and that a pass carries out.

Invariants of a plan, which :mod:`hostctl.network.allocate` keeps and :mod:`hostctl.network.document` checks: subnets of
bridges do not overlap; every address is a host address of its network, nobody has it twice, and the gateway keeps its
own; ranges of user ids do not overlap; a workload keeps its addresses for as long as it is on the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from hostctl.config.networks import DEFAULT
from hostctl.config.references import PortMapping
from hostctl.errors import HostctlError
from hostctl.workload import instance

BRIDGE = "hostctl0"
RANGE_SIZE = 65536
"""User ids of one workload: all that 16 bits can name, user_namespaces(7)."""
UNIQUE_LOCAL = IPv6Network("fc00::/7")  # RFC 4193
_SHORT = 11  # characters of a network's name that fit behind the prefix into IFNAMSIZ, 16 with the final NUL

Driver = Literal["bridge", "macvlan"]
Address = IPv4Address | IPv6Address


class NetworkPlanError(HostctlError):
    """A stored network plan does not mean what it must."""

    id = "network-plan-invalid"


class NetworkFullError(HostctlError):
    """Every address of a network, or every network of the pool, is taken."""

    id = "network-full"


class NetworkCollisionError(HostctlError):
    """A network would overlap what the host itself is in, or an address what another workload has."""

    id = "network-collision"


class PublishedAddressError(HostctlError):
    """A port is to be published at an address that ports cannot be published at."""

    id = "published-address-unsupported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """One network. ``last`` is the address handed out last; ``gateway`` is the host's own, or macvlan's router."""

    name: str
    subnet: IPv4Network
    gateway: IPv4Address | None
    last: IPv4Address
    subnet6: IPv6Network | None = None
    driver: Driver = "bridge"
    parent: str = ""
    internal: bool = False
    mtu: int | None = None

    @property
    def gateway6(self) -> IPv6Address | None:
        """The host's own IPv6 address on a bridge."""
        return self.subnet6[1] if self.subnet6 is not None and self.driver == "bridge" else None

    @property
    def bridge(self) -> str:
        """The name of its bridge: readable where it fits."""
        if self.name == DEFAULT:
            return BRIDGE
        if len(self.name) <= _SHORT:
            return f"hcb-{self.name}"
        return f"hcx{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A workload's place on one network."""

    network: str
    address: IPv4Address
    address6: IPv6Address | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadNetwork:
    """A workload on its networks, in the order of its interfaces.

    ``userns_start`` is the first of :data:`RANGE_SIZE` user ids on the host; ``dns`` are name servers for what is not a
    workload's name, none means the host's. While a workload changes, two instances of it may be there, with one range
    of user ids; the one that stands by has neither the name nor the ports. Replicas are there all at once, have the
    name and the ports together, and a range each. ``interfaces`` are the numbers of its interfaces where its networks
    changed while it ran, which left it its namespaces; elsewhere they are the positions, and a change means new
    namespaces.
    """

    name: str
    userns_start: int
    attachments: tuple[Attachment, ...]
    ports: tuple[PortMapping, ...] = ()
    dns: tuple[str, ...] = ()
    instance: str = ""
    standby: bool = False

    @property
    def key(self) -> str:
        """What namespaces, links and entries of this instance are called by."""
        return instance.key(self.name, self.instance)

    interfaces: tuple[int, ...] = ()

    def interface(self, position: int) -> int:
        """Return the number of the interface of a place."""
        return self.interfaces[position] if self.interfaces else position


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """All networks and all workloads on them, both sorted by name."""

    networks: tuple[Network, ...] = ()
    workloads: tuple[WorkloadNetwork, ...] = ()

    def network(self, name: str) -> Network:
        """Return a network by its name."""
        return next(network for network in self.networks if network.name == name)

    @property
    def bridges(self) -> tuple[Network, ...]:
        """The networks that need their bridge: those that a workload is on."""
        used = {attachment.network for workload in self.workloads for attachment in workload.attachments}
        return tuple(each for each in self.networks if each.driver == "bridge" and each.name in used)

    def way_out(self, workload: WorkloadNetwork) -> Attachment | None:
        """Return by which of its networks a workload reaches the outside: the first that is not internal."""
        open_ones = (each for each in workload.attachments if not self.network(each.network).internal)
        return next(open_ones, None)

    def way_in(self, workload: WorkloadNetwork) -> Attachment | None:
        """Return at which of its networks a workload's published ports are: its first bridge that is not internal."""
        bridges = {each.name for each in self.networks if each.driver == "bridge" and not each.internal}
        return next((each for each in workload.attachments if each.network in bridges), None)


_EVERYWHERE: Mapping[str | None, tuple[int, ...]] = {None: (4, 6), "0.0.0.0": (4,), "::": (6,)}  # noqa: S104 - means all


def targets(place: Attachment, port: PortMapping) -> Iterator[tuple[Address | None, Address]]:
    """Yield for each family at which a port is published the address that it is at, none means all, and its target."""
    versions = _EVERYWHERE.get(port.address) or ((6,) if ":" in str(port.address) else (4,))
    for target in (place.address, place.address6):
        if target is not None and target.version in versions:
            yield None if port.address in _EVERYWHERE else type(target)(str(port.address)), target


def check_published(plan: NetworkPlan) -> None:
    """Check that every published port can lead to its workload.

    Raises:
        PublishedAddressError: one cannot.
    """
    for workload in plan.workloads:
        place = plan.way_in(workload)
        for port in workload.ports:
            if place is None:
                raise PublishedAddressError(
                    f"workload {workload.name}: port {port} cannot be published",
                    details="none of its networks has a way in: they are internal or macvlan",
                )
            if port.address is not None and ":" in port.address and place.address6 is None:
                raise PublishedAddressError(
                    f"workload {workload.name}: port {port} cannot be published at an IPv6 address",
                    details=f"its network {place.network} has no IPv6",
                    hint=f"networks: {{{place.network}: {{ipv6: pool}}}}",
                )
