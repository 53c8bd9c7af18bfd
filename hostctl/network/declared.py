"""From a declaration to the plan of its networks, and from the plan to what a workload's bundle needs. Pure."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hostctl.config import networks
from hostctl.config.host import HostDeclaration
from hostctl.network import balance, document, nftables
from hostctl.network.allocate import Pools, Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.model import NetworkPlan, WorkloadNetwork
from hostctl.workload import identity, instance
from hostctl.workload.spec import Network

_POOL6_USE = b"hostctl network pool"


def unique_local(machine_id: str) -> IPv6Network:
    """Return a prefix of unique local addresses (RFC 4193), whose random part a machine's id decides."""
    digest = hashlib.sha256(_POOL6_USE + machine_id.encode()).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))


def pools(declaration: HostDeclaration, machine_id: str, routes: Mapping[str, IPv4Network | IPv6Network]) -> Pools:
    """Return where subnets come from.

    Args:
        declaration: the machine's; what its links are declared to be in is taken as well, routed there already or not.
        machine_id: its id, machine-id(5).
        routes: what the machine is in, see :func:`hostctl.network.surroundings.routes`.
    """
    pool = declaration.network_pool
    links = {f"{where} ({network})": network for where, network in networks.link_networks(declaration)}
    return Pools(
        ipv4=pool.ipv4.network,
        ipv6=pool.ipv6.network if pool.ipv6 else unique_local(machine_id),
        taken={**routes, **links},
    )


def plan(
    declaration: HostDeclaration,
    ranges: Mapping[str, int],
    former: NetworkPlan | None,
    pools: Pools,
    instances: Mapping[str, str] | None = None,
    leaving: Collection[str] = (),
    lasting: Collection[str] = (),
) -> NetworkPlan:
    """Return the plan of all networks, in which everybody keeps the addresses that they have.

    Args:
        declaration: the machine's.
        ranges: the numbers of the ranges of user ids, of workloads and of replicas.
        former: the plan in force.
        pools: where subnets come from.
        instances: the letters of the workloads that have any.
        leaving: instances of the former plan that stay until others have taken their place. They are not in the plan,
            but nobody gets their addresses.
        lasting: the workloads whose networks may change while they run.

    Raises:
        NetworkFullError, NetworkCollisionError, PublishedAddressError: it cannot be done as it is declared.
        NetworkPlanError: what came of it could not be read again.
    """
    wanted = [
        Wanted(
            name=str(name),
            userns_start=identity.range_start(ranges[instance.key(str(name), number)]),
            attachments=tuple(_attachment(network, place) for network, place in on.items()),
            ports=workload.ports,
            dns=tuple(map(str, workload.dns.servers)),
            instance=(instances or {}).get(str(name), number),
            lasting=str(name) in lasting,
        )
        for name, workload in declaration.workloads.items()
        if (on := networks.attachments(workload))
        for number in instance.numbers(workload.replicas)
    ]
    asked = [_network(str(name), network) for name, network in declaration.networks.items()]
    staying = [_staying(each) for each in (former.workloads if former else ()) if each.key in leaving]
    made = allocate([*wanted, *staying], former, asked, pools)
    done = replace(made, workloads=tuple(each for each in made.workloads if each.key not in leaving))
    document.check(done)
    return done


def _staying(workload: WorkloadNetwork) -> Wanted:
    return Wanted(
        name=workload.name,
        userns_start=workload.userns_start,
        attachments=tuple(WantedAttachment(network=place.network) for place in workload.attachments),
        instance=workload.instance,
        standby=True,
    )


def during(plan: NetworkPlan, former: NetworkPlan, leaving: Collection[str], *, moved: bool) -> NetworkPlan:
    """Return the plan that holds while workloads have two instances.

    Args:
        plan: the plan that is gone to, made with the same ``leaving``.
        former: the plan that is left.
        leaving: the instances in ``former`` that others in ``plan`` take the place of.
        moved: whether names and ports are the new instances' already.
    """
    old = [replace(each, standby=moved) for each in former.workloads if each.key in leaving]
    changing = {each.name for each in old}
    new = [replace(each, standby=each.name in changing and not moved) for each in plan.workloads]
    return replace(plan, workloads=tuple(sorted([*new, *old], key=lambda each: each.key)))


def moved(plan: NetworkPlan, *, to: Collection[str]) -> NetworkPlan:
    """Return a plan of :func:`during` with names and ports at the instances in ``to``, of workloads that have two."""
    names = {instance.name_of(key) for key in to}
    return replace(
        plan,
        workloads=tuple(
            replace(each, standby=each.key not in to) if each.name in names else each for each in plan.workloads
        ),
    )


def _attachment(network: str, place: networks.Attachment) -> WantedAttachment:
    return WantedAttachment(
        network=network,
        aliases=tuple(map(str, place.aliases)),
        address=IPv4Address(place.ipv4) if place.ipv4 is not None else None,
        address6=IPv6Address(place.ipv6) if place.ipv6 is not None else None,
    )


def _network(name: str, network: networks.Network) -> WantedNetwork:
    subnet6 = network.ipv6.network if isinstance(network.ipv6, networks.Ipv6Subnet) else None
    return WantedNetwork(
        name=name,
        subnet=network.subnet.network if network.subnet is not None else None,
        range=network.range.network if network.range is not None else None,
        gateway=IPv4Address(network.gateway) if network.gateway is not None else None,
        subnet6="pool" if network.ipv6 == "pool" else subnet6,
        driver=network.driver,
        parent=str(network.parent or ""),
        internal=network.internal,
        mtu=network.mtu,
    )


def connection(plan: NetworkPlan, workload: WorkloadNetwork) -> Network:
    """Return what a workload's bundle says of its networks.

    Its name server is that of the first bridge, before all of one that is not internal, because the name server of a
    network answers for all networks that the one who asks is on.
    """
    bridges = [network for place in workload.attachments if (network := plan.network(place.network)).driver == "bridge"]
    asked = next((network for network in bridges if not network.internal), next(iter(bridges), None))
    balances = workload.key in {each.key for each in balance.balanced(plan)}
    places = [(place.address, place.address6) for place in workload.attachments]
    addresses = [address for address in itertools.chain(*places) if address is not None]
    return Network(
        addresses=tuple(map(str, addresses)),
        name_servers=(str(asked.gateway),) if asked is not None else (),
        chain=balance.chain(workload.key) if balances else "",
        serve=nftables.serve(plan, workload) if balances else b"",
        may_be_late=any(plan.network(place.network).driver == "macvlan" for place in workload.attachments),
    )
