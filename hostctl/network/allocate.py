"""Which network has which subnet and which workload which addresses, decided purely.

New addresses are handed out going round the subnet from the last one, so that an address that came free is the last to
be used again: peers that still remember its former holder reach nobody instead of somebody else. What is there already
keeps what it has, unless the declaration says otherwise: a change of one workload moves no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeVar

from hostctl.config.networks import DEFAULT
from hostctl.config.references import PortMapping
from hostctl.network.model import (
    Attachment,
    Driver,
    Network,
    NetworkCollisionError,
    NetworkFullError,
    NetworkPlan,
    WorkloadNetwork,
    check_published,
)
from hostctl.workload import instance

SIZE, SIZE6 = 24, 64  # prefix lengths of networks from the pools
_HIGH = 1 << 32  # IPv6 addresses that do not follow from the IPv4 one are counted from here

Subnet = IPv4Network | IPv6Network
Address = TypeVar("Address", IPv4Address, IPv6Address)


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedNetwork:
    """A declared network; what is not given comes from the pool."""

    name: str = DEFAULT
    subnet: IPv4Network | None = None
    range: IPv4Network | None = None
    gateway: IPv4Address | None = None
    subnet6: IPv6Network | Literal["pool"] | None = None
    driver: Driver = "bridge"
    parent: str = ""
    internal: bool = False
    mtu: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedAttachment:
    """A declared place on a network; addresses only when they are static."""

    network: str = DEFAULT
    aliases: tuple[str, ...] = ()
    address: IPv4Address | None = None
    address6: IPv6Address | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A declared workload with private networks; see :class:`hostctl.network.model.WorkloadNetwork`."""

    name: str
    userns_start: int
    attachments: tuple[WantedAttachment, ...] = (WantedAttachment(),)
    ports: tuple[PortMapping, ...] = ()
    dns: tuple[str, ...] = ()
    instance: str = ""
    standby: bool = False
    lasting: bool = False
    """Another network leaves it its namespaces, and an interface the number that it has."""

    @property
    def key(self) -> str:
        """What this instance of the workload is called by."""
        return instance.key(self.name, self.instance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """Where subnets are taken from, and what the host itself is in, which no new subnet may overlap."""

    ipv4: IPv4Network = field(default_factory=lambda: IPv4Network("10.88.0.0/15"))
    ipv6: IPv6Network = field(default_factory=lambda: IPv6Network("fd68:6f73:7463::/48"))
    taken: Mapping[str, Subnet] = field(default_factory=dict)
    """By the name of the route or link that leads there."""


def allocate(
    wanted: Iterable[Wanted],
    former: NetworkPlan | None = None,
    networks: Sequence[WantedNetwork] = (),
    pools: Pools | None = None,
) -> NetworkPlan:
    """Give every network its subnet and every workload its addresses.

    Args:
        wanted: the workloads with private networks, each instance once.
        former: the plan of the generation in force; what is in it keeps its subnet and its addresses.
        networks: the declared networks, each name once; ``default`` is there in any case.
        pools: where subnets come from.

    Raises:
        NetworkFullError: there are more workloads than addresses, or more networks than the pool has.
        NetworkCollisionError: a subnet overlaps what the host is in, or what a network has from the pool that workloads
            stay on, or a static address is somebody else's.
        PublishedAddressError: a port is to be published at an IPv6 address, and there is no IPv6.
    """
    base, declared, pools = former or NetworkPlan(), sorted(wanted, key=lambda each: each.key), pools or Pools()
    asked = {each.name: each for each in networks}
    used = {attachment.network for each in declared for attachment in each.attachments}
    if DEFAULT in used or _is_remembered(base, asked, pools):
        asked.setdefault(DEFAULT, WantedNetwork())
    before = {place.network for workload in base.workloads for place in workload.attachments}
    made = _subnets(asked, base, pools, before & used)
    places: dict[str, dict[str, Attachment]] = {each.key: {} for each in declared}
    done = []
    for name, network in made.items():
        on = [(each.key, place) for each in declared for place in each.attachments if place.network == name]
        last, held = _Addresses(network, asked[name].range, _held(base, network)).give(on)
        for workload, attachment in held.items():
            places[workload][name] = attachment
        done.append(replace(network, last=last))
    plan = NetworkPlan(
        networks=tuple(sorted(done, key=lambda each: each.name)),
        workloads=tuple(
            WorkloadNetwork(
                name=each.name,
                userns_start=each.userns_start,
                attachments=tuple(places[each.key][place.network] for place in each.attachments),
                ports=each.ports,
                dns=each.dns,
                instance=each.instance,
                standby=each.standby,
                interfaces=_interfaces(each, base),
            )
            for each in declared
        ),
    )
    check_published(plan)
    return plan


def _is_remembered(base: NetworkPlan, asked: Mapping[str, WantedNetwork], pools: Pools) -> bool:
    """Tell whether `default`, which nobody is on, stays, so that its addresses come back late: unless in the way."""
    first, _ = pools.ipv4.subnets()
    bridges = [each.subnet for each in asked.values() if each.driver == "bridge" and each.subnet is not None]
    return any(each.name == DEFAULT for each in base.networks) and not _overlap(first, bridges)


def _interfaces(wanted: Wanted, base: NetworkPlan) -> tuple[int, ...]:
    """Return the numbers of a workload's interfaces if they are not the positions; new ones get the lowest free."""
    before = next((each for each in base.workloads if each.key == wanted.key), None)
    if before is None or not wanted.lasting or before.userns_start != wanted.userns_start:
        return ()
    held = {place.network: before.interface(position) for position, place in enumerate(before.attachments)}
    on = [place.network for place in wanted.attachments]
    if not before.interfaces and on == [*held]:
        return ()
    free = (number for number in itertools.count() if number not in held.values())
    return tuple(held[network] if network in held else next(free) for network in on)


def _held(base: NetworkPlan, network: Network) -> dict[str, Attachment]:
    """Return who has which addresses of a network, as far as they still are addresses of it."""
    return {
        workload.key: place
        for workload in base.workloads
        for place in workload.attachments
        if place.network == network.name and place.address in network.subnet
    }


def _subnets(
    asked: Mapping[str, WantedNetwork], base: NetworkPlan, pools: Pools, lived_in: Collection[str]
) -> dict[str, Network]:
    """Give every network its subnets; the addresses handed out last stay remembered where the subnet stays.

    Args:
        asked: the networks by name.
        base: the former plan.
        pools: where subnets come from.
        lived_in: the networks that workloads were on, and are.
    """
    former = {each.name: each for each in base.networks}
    declared: dict[str, Subnet] = {
        f"{name}.subnet": each.subnet for name, each in asked.items() if each.subnet is not None
    }
    declared |= {f"{name}.ipv6": each.subnet6 for name, each in asked.items() if isinstance(each.subnet6, IPv6Network)}
    occupied = [*declared.values()]
    made: dict[str, Network] = {}
    known = [name for name in asked if name in former]
    for name in [*known, *(name for name in asked if name not in former)]:
        one, old = asked[name], former.get(name)
        if one.driver == "macvlan" and one.subnet is not None:
            subnet, subnet6 = one.subnet, one.subnet6 if isinstance(one.subnet6, IPv6Network) else None
        else:
            if old is not None and name in lived_in:
                _check_stays(one, old, pools, declared)
            subnet = one.subnet or _from_pool(name, old.subnet if old else None, pools, occupied)
            subnet6 = one.subnet6 if isinstance(one.subnet6, IPv6Network) else None
            if one.subnet6 == "pool":
                subnet6 = _from_pool6(old.subnet6 if old else None, pools, occupied)
            for new, before in ((subnet, old.subnet if old else None), (subnet6, old.subnet6 if old else None)):
                if new is not None and new != before:
                    _check_free(name, new, pools.taken)
            occupied += [subnet, *([subnet6] if subnet6 else [])]
        gateway = one.gateway or (subnet[1] if one.driver == "bridge" else None)
        stays = old is not None and old.subnet == subnet
        made[name] = Network(
            name=name,
            subnet=subnet,
            gateway=gateway,
            last=old.last if old is not None and stays else subnet[1],
            subnet6=subnet6,
            driver=one.driver,
            parent=one.parent,
            internal=one.internal,
            mtu=one.mtu,
        )
    return made


def _overlap(one: Subnet, others: Iterable[Subnet]) -> bool:
    return any(one.version == other.version and one.overlaps(other) for other in others)


def _check_stays(one: WantedNetwork, old: Network, pools: Pools, declared: Mapping[str, Subnet]) -> None:
    """Refuse a declared subnet that would drive a network out of what it has from the pool.

    The workloads on it did not change themselves: they would run on in namespaces that are in no network any more.
    """
    _, rest = pools.ipv4.subnets()
    kept: list[Subnet] = [old.subnet] if one.subnet is None and old.subnet.subnet_of(rest) else []
    if one.subnet6 == "pool" and old.subnet6 is not None and old.subnet6.subnet_of(pools.ipv6):
        kept.append(old.subnet6)
    for where, subnet in declared.items():
        if _overlap(subnet, kept):
            raise NetworkCollisionError(
                f"networks.{where}: {subnet} overlaps what network {old.name} has from the pool, "
                f"{' and '.join(map(str, kept))}, and workloads are on it",
                hint=f"declare another one, or one for networks.{old.name} as well, which restarts its workloads",
            )


def _check_free(name: str, subnet: Subnet, routes: Mapping[str, Subnet]) -> None:
    for where, other in routes.items():
        if _overlap(subnet, [other]):
            raise NetworkCollisionError(
                f"network {name}: {subnet} overlaps {other}, which this host reaches by {where}",
                hint=f"declare another subnet under networks.{name}, or another network_pool",
            )


def _from_pool(name: str, old: IPv4Network | None, pools: Pools, occupied: Sequence[Subnet]) -> IPv4Network:
    """Return a network's subnet: the one it has, as long as it is the pool's; else one that nobody is in."""
    first, rest = pools.ipv4.subnets()
    if name == DEFAULT:
        return first
    if old is not None and old.subnet_of(rest) and not _overlap(old, occupied):
        return old
    refused = [*occupied, *pools.taken.values()]
    for subnet in rest.subnets(new_prefix=max(SIZE, rest.prefixlen)):
        if not _overlap(subnet, refused):
            return subnet
    raise NetworkFullError(f"network {name}: every network of the pool {rest} is taken", hint="network_pool.ipv4")


def _from_pool6(old: IPv6Network | None, pools: Pools, occupied: Sequence[Subnet]) -> IPv6Network:
    if old is not None and old.subnet_of(pools.ipv6) and not _overlap(old, occupied):
        return old
    refused = [*occupied, *pools.taken.values()]
    for subnet in itertools.islice(pools.ipv6.subnets(new_prefix=SIZE6), 1 << 16):
        if not _overlap(subnet, refused):
            return subnet
    raise NetworkFullError(f"every network of the pool {pools.ipv6} is taken", hint="network_pool.ipv6")


class _Addresses:
    """Hands out the addresses of one network."""

    def __init__(self, network: Network, part: IPv4Network | None, held: Mapping[str, Attachment]) -> None:
        self.network, self.held = network, held
        self.part = part or network.subnet
        self.last = network.last

    def give(self, on: Sequence[tuple[str, WantedAttachment]]) -> tuple[IPv4Address, dict[str, Attachment]]:
        """Return the address handed out last, and everybody's place by workload."""
        static = {place.address: name for name, place in on if place.address is not None}
        kept = {
            name: self.held[name].address
            for name, place in on
            if name in self.held and place.address is None and self.held[name].address != self.network.gateway
        }
        self._check_static(static, kept)
        # What is freed by this very change is left alone too, as long as there is anything else.
        taken = {*static, *kept.values(), *([self.network.gateway] if self.network.gateway else [])}
        freed = {place.address for place in self.held.values()} - taken
        given: dict[str, IPv4Address] = {}
        for name, place in on:
            known = place.address or kept.get(name)
            if known is None:
                self.last = self._next(taken, freed)
                taken.add(self.last)
            given[name] = known or self.last
        six = self._six(on, given)
        places = {
            name: Attachment(
                network=self.network.name, address=given[name], address6=six.get(name), aliases=place.aliases
            )
            for name, place in on
        }
        return self.last, places

    def _check_static(self, static: Mapping[Address, str], kept: Mapping[str, Address]) -> None:
        """Refuse a static address that another workload has, which is not restarted and so would keep it."""
        for name, address in kept.items():
            if static.get(address, name) != name:
                raise NetworkCollisionError(
                    f"network {self.network.name}: {static[address]} is to have {address}, the address of {name}",
                    hint=f"give {static[address]} another address, or {name} a static one as well",
                )

    def _next(self, taken: set[IPv4Address], freed: set[IPv4Address]) -> IPv4Address:
        """Return the first free address after the last one, going round; a freed one only if there is no other."""
        edges = {self.network.subnet.network_address, self.network.subnet.broadcast_address}
        first, count = int(self.part.network_address), self.part.num_addresses
        start = int(self.last) - first if self.last in self.part else -1
        for refused in (taken | freed | edges, taken | edges):
            for step in range(1, count + 1):
                address = IPv4Address(first + (start + step) % count)
                if address not in refused:
                    return address
        raise NetworkFullError(
            f"all addresses of network {self.network.name}, {self.part}, are taken",
            hint="give workloads that need no address of their own network: none or network: host",
        )

    def _six(
        self, on: Sequence[tuple[str, WantedAttachment]], given: Mapping[str, IPv4Address]
    ) -> dict[str, IPv6Address]:
        """Return everybody's IPv6 address: the static one, the one they have, or what follows from the IPv4 address."""
        subnet6 = self.network.subnet6
        if subnet6 is None:
            return {}
        static = {place.address6: name for name, place in on if place.address6 is not None}
        own = (subnet6[0], subnet6[1])
        kept = {
            name: former
            for name, place in on
            if name in self.held and place.address6 is None and (former := self.held[name].address6) is not None
            if former in subnet6 and former not in own
        }
        self._check_static(static, kept)
        made = {**{name: address for address, name in static.items()}, **kept}
        taken = {*made.values(), *own}
        for name, address in given.items():
            if name in made:
                continue
            follows = subnet6[int(address) - int(self.network.subnet.network_address)]
            more = (subnet6[_HIGH + number] for number in itertools.count())
            made[name] = next(choice for choice in itertools.chain([follows], more) if choice not in taken)
            taken.add(made[name])
        return made
