"""The declared networks of workloads: their types, and the rules between networks, addresses and published ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from hostctl.config import ports
from hostctl.config.addresses import IpAddress
from hostctl.config.names import Name
from hostctl.config.text import Text, quoted

if TYPE_CHECKING:
    from hostctl.config.host import HostDeclaration
    from hostctl.config.workload import Workload

DEFAULT = "default"
"""The network of workloads that name none; it is there without being declared."""
MAX_NETWORKS = 64
MAX_ALIASES = 16
MAX_SERVERS = 3  # resolv.conf(5), MAXNS
MAX_SEARCH = 6  # resolv.conf(5), MAXDNSRCH of older libraries
SMALLEST_MTU, SMALLEST_MTU6, LARGEST_MTU = 576, 1280, 65535  # RFC 791, RFC 8200, <linux/if_ether.h> ETH_MAX_MTU


Subnet = IPv4Network | IPv6Network
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


class Ipv4Subnet(Text):
    """An IPv4 network, as in 10.89.1.0/24, with room for a gateway and a workload."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}"
    EXPECTED: ClassVar[str] = "an IPv4 network with a prefix length from 8 to 30, as in 10.89.1.0/24"
    EXAMPLE: ClassVar[str] = "10.89.1.0/24"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse an address inside a network, networks that nobody can be in, and those that mean something else."""
        try:
            network = IPv4Network(text, strict=False)
        except ValueError:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}") from None
        if str(network) != text:
            raise ValueError(f"{quoted(text)} is an address inside a network; did you mean {quoted(str(network))}?")
        if not 8 <= network.prefixlen <= 30:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        if network.is_loopback or network.is_multicast or network.is_link_local or network.network_address.is_reserved:
            raise ValueError(f"{quoted(text)} is loopback, link-local, multicast or reserved")
        return text

    @property
    def network(self) -> IPv4Network:
        """The network itself."""
        return IPv4Network(self)


class Ipv6Subnet(Text):
    """An IPv6 network, as in fd00:1:2:3::/64."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}"
    EXPECTED: ClassVar[str] = "an IPv6 network with a prefix length from 8 to 64, as in fd00:1:2:3::/64"
    EXAMPLE: ClassVar[str] = "fd00:1:2:3::/64"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the shortest form; refuse an address inside a network and networks that mean something else."""
        try:
            network = IPv6Network(text, strict=False)
            strict = IPv6Network(text, strict=False).network_address == IPv6Address(text.partition("/")[0])
        except ValueError:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}") from None
        if not strict:
            raise ValueError(f"{quoted(text)} is an address inside a network; did you mean {quoted(str(network))}?")
        if not 8 <= network.prefixlen <= 64:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        if network.is_multicast or network.is_link_local or network.network_address.ipv4_mapped is not None:
            raise ValueError(f"{quoted(text)} is link-local, multicast or IPv4")
        return str(network)

    @property
    def network(self) -> IPv6Network:
        """The network itself."""
        return IPv6Network(self)


class LinkName(Text):
    """The name of one network link of the host."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z][A-Za-z0-9_.-]{0,14}"
    EXPECTED: ClassVar[str] = "a link's name of up to 15 characters, as in enp1s0"
    EXAMPLE: ClassVar[str] = "enp1s0"


class DomainName(Text):
    """A domain, in small letters."""

    __slots__ = ()
    PATTERN: ClassVar[str] = rf"{_LABEL}(\.{_LABEL})*"
    EXPECTED: ClassVar[str] = "a domain, as in example.org"
    EXAMPLE: ClassVar[str] = "example.org"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return it in small letters; refuse what is too long for the DNS (RFC 1035)."""
        if len(text) > 253:
            raise ValueError(f"{quoted(text)} is longer than 253 characters")
        return text.lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network of workloads. Those on it reach each other by name; those on others do not."""

    driver: Literal["bridge", "macvlan"] = "bridge"
    """bridge: a bridge on this host, from which workloads reach the outside behind the host's address. macvlan: each
    workload is a machine of its own in the network that the link `parent` is in, past the host's packet filter."""
    parent: LinkName | None = None
    """The host's link that a macvlan network is in."""
    subnet: Ipv4Subnet | None = None
    """Its IPv4 network; from `network_pool` by default. That of a macvlan network has to be given."""
    range: Ipv4Subnet | None = None
    """The part of the subnet that addresses are handed out from; all of it by default. Static ones may lie outside."""
    gateway: IpAddress | None = None
    """IPv4 address of the host on a bridge, the first of the subnet by default; of the router in a macvlan network."""
    ipv6: Literal["none", "pool"] | Ipv6Subnet = "none"
    """Its IPv6 network: one of your own, `pool` for one from `network_pool`, or `none`. A network below fc00::/7
    reaches the outside behind the host's address; any other is routed as it is, and its routes are yours to set."""
    internal: bool = False
    """Nothing leads in or out: no routes, no published ports, and only names of this network resolve."""
    mtu: int | None = None
    """Largest packet in bytes, from 576 (with IPv6 1280) to 65535."""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        wrong = []
        if self.driver == "bridge" and self.parent is not None:
            wrong.append("parent: only a macvlan network has one")
        if self.driver == "macvlan":
            wrong += ["parent: a macvlan network needs the link it is in"] * (self.parent is None)
            wrong += ["subnet: a macvlan network needs that of its parent"] * (self.subnet is None)
            wrong += ["ipv6: a macvlan network has the prefix of its parent, not one of ours"] * (self.ipv6 == "pool")
        smallest = SMALLEST_MTU if self.ipv6 == "none" else SMALLEST_MTU6
        if self.mtu is not None and not smallest <= self.mtu <= LARGEST_MTU:
            wrong.append(f"mtu: must be from {smallest} to {LARGEST_MTU}")
        wrong += self._address_problems()
        if wrong:
            raise ValueError(*wrong)

    def _address_problems(self) -> Iterator[str]:
        if self.subnet is None:
            if self.range is not None:
                yield "range: it is part of a subnet, and there is none here"
            if self.gateway is not None:
                yield "gateway: it is in a subnet, and there is none here"
            return
        if self.range is not None and not self.range.network.subnet_of(self.subnet.network):
            yield f"range: {self.range} is not inside the subnet {self.subnet}"
        if self.gateway is not None and not is_host(self.gateway, self.subnet.network):
            yield f"gateway: {self.gateway} is not an address of the subnet {self.subnet}"


def is_host(address: str, subnet: IPv4Network) -> bool:
    """Tell whether a text is the address of a host in an IPv4 network."""
    parsed = ipaddress.ip_address(address)
    return parsed in subnet and parsed not in (subnet.network_address, subnet.broadcast_address)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPool:
    """Where networks without a subnet of their own get theirs from. It must not overlap what the host is in."""

    ipv4: Ipv4Subnet = field(default_factory=lambda: Ipv4Subnet("10.88.0.0/15"))
    """The network `default` has the first half of it, others get /24 networks from the second half."""
    ipv6: Ipv6Subnet | None = None
    """Networks with `ipv6: pool` get /64 networks from it. By default a prefix of unique local addresses (RFC 4193)
    that is made of the machine id."""

    def __post_init__(self) -> None:
        """Refuse pools that nothing fits into."""
        if self.ipv4.network.prefixlen > 22:
            raise ValueError("ipv4: the prefix length must be at most 22, so that there is room for several networks")

    @property
    def first(self) -> IPv4Network:
        """The network of those that name none."""
        return next(self.ipv4.network.subnets())


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """How a workload is on one network."""

    aliases: tuple[Name, ...] = ()
    """Further names by which workloads of this network find it. Several may share one, which then leads to any of
    them; none is another workload's own name there."""
    ipv4: IpAddress | None = None
    """A static IPv4 address; the network must have a declared subnet."""
    ipv6: IpAddress | None = None
    """A static IPv6 address; the network must have a declared IPv6 network."""

    def __post_init__(self) -> None:
        """Refuse addresses of the other family, and too many names."""
        wrong = []
        if self.ipv4 is not None and ":" in self.ipv4:
            wrong.append(f"ipv4: {self.ipv4} is an IPv6 address")
        if self.ipv6 is not None and ":" not in self.ipv6:
            wrong.append(f"ipv6: {self.ipv6} is an IPv4 address")
        if len(self.aliases) > MAX_ALIASES:
            wrong.append(f"aliases: at most {MAX_ALIASES} are possible")
        if wrong:
            raise ValueError(*wrong)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dns:
    """Where a workload's names are looked up that are not those of its networks."""

    servers: tuple[IpAddress, ...] = ()
    """Name servers, asked in this order; the host's own by default. For a workload whose bridges are
    all internal nobody asks them."""
    search: tuple[DomainName, ...] = ()
    """Domains that short names are tried in."""

    def __post_init__(self) -> None:
        """Refuse what resolv.conf(5) cannot hold."""
        if len(self.servers) > MAX_SERVERS:
            raise ValueError(f"servers: at most {MAX_SERVERS} are possible")
        if len(self.search) > MAX_SEARCH:
            raise ValueError(f"search: at most {MAX_SEARCH} are possible")


Attachments: TypeAlias = "tuple[Name, ...] | Mapping[Name, Attachment]"


def attachments(workload: Workload) -> Mapping[str, Attachment]:
    """Return how a workload is on each of its networks, in the order of its interfaces; none without a private one."""
    if workload.network != "private":
        return {}
    if not workload.networks:
        return {DEFAULT: Attachment()}
    if isinstance(workload.networks, Mapping):
        return {str(name): attachment for name, attachment in workload.networks.items()}
    return {str(name): Attachment() for name in workload.networks}


def declared(declaration: HostDeclaration) -> Mapping[str, Network]:
    """Return all networks that there are, with the one that needs no declaration."""
    return {DEFAULT: Network(), **{str(name): network for name, network in declaration.networks.items()}}


def workload_problems(workload: Workload) -> Iterator[str]:
    """Yield what is wrong with a workload's network settings by themselves."""
    if workload.networks and workload.network != "private":
        yield f"networks: network: {workload.network} is on none of them"
    if isinstance(workload.networks, tuple) and len(set(workload.networks)) < len(workload.networks):
        yield "networks: a network is named twice"
    if workload.ports and workload.network != "private":
        yield "ports: only network: private can publish ports"


def problems(declaration: HostDeclaration) -> Iterator[str]:
    """Yield what is wrong between networks, links, workloads and their ports, each with its place."""
    if len(declaration.networks) > MAX_NETWORKS:
        yield f"networks: at most {MAX_NETWORKS} are possible"
        return
    yield from _overlaps(declaration)
    networks = declared(declaration)
    holders: dict[tuple[str, str], str] = {}
    on = {name: attachments(workload) for name, workload in declaration.workloads.items()}
    for name, workload in declaration.workloads.items():
        for network, attachment in on[name].items():
            where = f"workloads.{name}.networks"
            if network not in networks:
                yield f"{where}: network {network!r} is not declared under networks"
                continue
            yield from _static(f"{where}.{network}", network, attachment, declaration)
            for index, alias in enumerate(attachment.aliases):
                if alias != name and network in on.get(alias, ()):
                    said = f"workload {alias!r} of this network has that name, so it would lead to either"
                    yield f"{where}.{network}.aliases[{index}]: {said}; choose another alias"
            for family in ("ipv4", "ipv6"):
                address = getattr(attachment, family)
                other = holders.setdefault((network, str(address)), str(name)) if address else name
                if other != name:
                    yield f"{where}.{network}.{family}: {address} is already the address of {other!r}"
        yield from _publishing(str(name), workload, networks)
        yield from _unasked(str(name), workload, networks)
    yield from ports.conflicts(declaration.workloads)


def problems_of_several(declaration: HostDeclaration, names: Iterable[Name], setting: str) -> Iterator[str]:
    """Yield what only one container can have of the networks of workloads that have several, each with its place.

    Args:
        declaration: all that is declared.
        names: of the workloads.
        setting: what gives them several.
    """
    known = declared(declaration)
    for name in names:
        where = f"workloads.{name}.networks"
        for network, place in attachments(declaration.workloads[name]).items():
            for family in ("ipv4", "ipv6"):
                if getattr(place, family) is not None:
                    yield f"{where}.{network}.{family}: with {setting} several containers would have it"
            if network in known and known[network].driver == "macvlan":
                yield f"{where}: {network!r} is macvlan; with {setting} only bridges are possible"


def _overlaps(declaration: HostDeclaration) -> Iterator[str]:
    """Yield subnets that overlap each other or what the host's declared links are in; macvlan is in one of those."""
    links = link_networks(declaration)
    seen = links
    first = _first_half(declaration)
    for where, subnet in links:
        if first is not None and isinstance(subnet, IPv4Network) and subnet.overlaps(first):
            yield f"network_pool: its first half, {first}, overlaps {subnet} of {where}"
    for name, network in declaration.networks.items():
        if network.driver == "macvlan":
            continue
        own: list[tuple[str, Subnet]] = []
        if network.subnet is not None:
            own.append((f"networks.{name}.subnet", network.subnet.network))
            if first is not None and network.subnet.network.overlaps(first):
                yield (
                    f"networks.{name}.subnet: {network.subnet} overlaps {first}, the first half of network_pool, which "
                    f"network {DEFAULT!r} has; choose another one, or give networks.{DEFAULT} a subnet of its own"
                )
        if isinstance(network.ipv6, Ipv6Subnet):
            own.append((f"networks.{name}.ipv6", network.ipv6.network))
        for place, subnet in own:
            for where, other in seen:
                if subnet.version == other.version and subnet.overlaps(other):
                    yield f"{place}: {subnet} overlaps {other} of {where.removesuffix('.subnet').removesuffix('.ipv6')}"
        seen = [*seen, *own]


def link_networks(declaration: HostDeclaration) -> list[tuple[str, Subnet]]:
    """Return the networks that the host's declared links are in, each with the place of its link."""
    return [
        (f"network.{name}", ipaddress.ip_interface(address).network)
        for name, link in declaration.network.items()
        for address in link.addresses
    ]


def _first_half(declaration: HostDeclaration) -> IPv4Network | None:
    """Return what the network `default` has of the pool; none if it has a subnet of its own, or is not there."""
    own = declaration.networks.get(Name(DEFAULT))
    there = own is not None or any(DEFAULT in attachments(each) for each in declaration.workloads.values())
    return declaration.network_pool.first if there and (own is None or own.subnet is None) else None


def _static(where: str, name: str, attachment: Attachment, declaration: HostDeclaration) -> Iterator[str]:
    network = declared(declaration)[name]
    if attachment.ipv4 is not None:
        subnet = network.subnet.network if network.subnet is not None else None
        if name == DEFAULT and subnet is None:
            subnet = declaration.network_pool.first
        if subnet is None:
            yield f"{where}.ipv4: the network has no declared subnet, so nobody knows what is in it"
        elif not is_host(attachment.ipv4, subnet):
            yield f"{where}.ipv4: {attachment.ipv4} is not an address of the subnet {subnet}"
        elif IPv4Address(attachment.ipv4) == gateway(network, subnet):
            yield f"{where}.ipv4: {attachment.ipv4} is the gateway's"
    if attachment.ipv6 is not None:
        if not isinstance(network.ipv6, Ipv6Subnet):
            yield f"{where}.ipv6: the network has no declared IPv6 network"
        else:
            within, address = network.ipv6.network, IPv6Address(attachment.ipv6)
            if address not in within or address in (within[0], within[1]):
                yield f"{where}.ipv6: {address} is not an address of {within}, or the gateway's"


def gateway(network: Network, subnet: IPv4Network) -> IPv4Address | None:
    """Return the gateway's IPv4 address in a subnet: of a bridge that of the host, of macvlan that of the router."""
    if network.gateway is not None:
        return IPv4Address(network.gateway)
    return subnet[1] if network.driver == "bridge" else None


def _unasked(name: str, workload: Workload, networks: Mapping[str, Network]) -> Iterator[str]:
    """Yield declared name servers that nobody asks: the workload asks at its bridges, and those lead nowhere."""
    on = {each: networks[each] for each in attachments(workload) if each in networks}
    bridges = [each for each, network in on.items() if network.driver == "bridge"]
    out = next((each for each, network in on.items() if not network.internal), None)
    if workload.dns.servers and bridges and out is not None and all(networks[each].internal for each in bridges):
        yield (
            f"workloads.{name}.dns.servers: they would not be asked: the way out, {out!r}, is macvlan, and the name "
            f"server at {bridges[0]!r}, which is internal, asks nobody; leave internal out there, or this here, which "
            "leaves the workload without names of the outside"
        )


def _publishing(name: str, workload: Workload, networks: Mapping[str, Network]) -> Iterator[str]:
    on = attachments(workload)
    if not workload.ports or not set(on) <= set(networks) or not on:
        return
    open_ones = [each for each in on if not networks[each].internal]
    target = next((each for each in open_ones if networks[each].driver == "bridge"), None)
    if target is None:
        yield f"workloads.{name}.ports: none of its networks can publish ports: they are internal or macvlan"
        return
    if open_ones[0] != target:
        yield (
            f"workloads.{name}.networks: {open_ones[0]!r} is macvlan and the way out, so answers to who asks the "
            f"ports at {target!r} would not go through the host; put {target!r} before it"
        )
    for index, port in enumerate(workload.ports):
        if port.address == "::1":
            yield (
                f"workloads.{name}.ports[{index}]: the kernel leads nothing from ::1 into a network; "
                f"did you mean 127.0.0.1:{str(port).removeprefix('[::1]:')}?"
            )
        elif port.address is not None and ":" in port.address and networks[target].ipv6 == "none":
            yield (
                f"workloads.{name}.ports[{index}]: an IPv6 address needs a network with IPv6; "
                f"did you mean networks: {{{target}: {{ipv6: pool}}}}?"
            )
