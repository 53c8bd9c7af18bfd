"""What a network pass has to do: the difference between the plan and what is there, decided purely.

What a link is for stands in its alias, which ``ip link`` shows. Alias and the flag that it is up are set last, so a
link of ours with the right alias that is up is finished, and one from a pass that was cut is not mistaken for one.
A workload whose links are not all finished gets new namespaces; others are not touched. One whose networks change while
it runs keeps its namespaces as long as one of its links is finished: only the others are made, and made anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from hostctl.network.model import BRIDGE, Attachment, Network, NetworkPlan, WorkloadNetwork

_HOST_SIDE = r"hc[0-9a-f]{12}"
_BRIDGE = rf"{BRIDGE}|hcb-.+|hcx[0-9a-f]{{12}}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link. ``master`` is the index of the bridge it is a port of, 0 if of none."""

    index: int
    name: str
    kind: str
    alias: str
    master: int
    up: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a pass has to do, in this order; nothing if all is as it should be."""

    remove: tuple[Link, ...] = ()
    unpin: tuple[str, ...] = ()
    make_bridges: tuple[Network, ...] = ()
    attach: tuple[tuple[Link, str], ...] = ()
    """Finished links that only lost their bridge, and its name: the workloads behind them keep their namespaces."""
    connect: tuple[WorkloadNetwork, ...] = ()
    """Workloads that need namespaces and links, all new."""
    join: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Workloads that need links in the namespaces that they have: the positions of their networks."""


def host_side(workload: str, network: str) -> str:
    """Return the name of a workload's link on the host: stable, and at most 15 characters (IFNAMSIZ)."""
    return f"hc{hashlib.sha256(f'{workload}/{network}'.encode()).hexdigest()[:12]}"


def inside(number: int) -> str:
    """Return the name of a workload's link in its own namespace."""
    return f"eth{number}"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def bridge_alias(network: Network) -> str:
    """Return what the alias of a network's finished bridge says: all that it was made from."""
    made_from = (network.subnet, network.gateway, network.subnet6, network.mtu)
    return f"hostctl network {network.name} {_digest(made_from)}"


def alias(plan: NetworkPlan, workload: WorkloadNetwork, position: int) -> str:
    """Return what the alias of a workload's finished link says: whose it is, what it and what all were made from.

    The last word is not looked at where the networks of a workload change while it runs.
    """
    made_from = [
        (replace(place, aliases=()), replace(network, last=network.subnet[0]))
        for place in workload.attachments
        for network in [plan.network(place.network)]
    ]
    place, name = workload.attachments[position], inside(workload.interface(position))
    digests = (_owner(workload), _digest((made_from[position], place is plan.way_out(workload))), _digest(made_from))
    return f"hostctl workload {workload.key} {name} {place.network} {place.address} {' '.join(digests)}"


def _owner(workload: WorkloadNetwork) -> str:
    """Return what of an alias says whose namespaces a link leads into."""
    return _digest((workload.key, workload.userns_start))


def is_theirs(link: Link, workload: WorkloadNetwork) -> bool:
    """Tell whether a finished link leads into the namespaces of a workload, as they should be."""
    return link.up and link.alias.split(" ")[-3:-2] == [_owner(workload)]


def is_made(link: Link | None, plan: NetworkPlan, workload: WorkloadNetwork, position: int) -> bool:
    """Tell whether a link is the finished one of a workload's place."""
    if link is None or not link.up:
        return False
    wanted = alias(plan, workload, position)
    if workload.interfaces:
        return link.alias.rpartition(" ")[0] == wanted.rpartition(" ")[0]
    return link.alias == wanted


def places(plan: NetworkPlan, driver: str) -> Iterator[tuple[WorkloadNetwork, int, Attachment, Network]]:
    """Yield every place of every workload on the networks of a driver, with the workload and the place's position."""
    networks = {network.name: network for network in plan.networks}
    for workload in plan.workloads:
        for position, place in enumerate(workload.attachments):
            if networks[place.network].driver == driver:
                yield workload, position, place, networks[place.network]


def decide(
    plan: NetworkPlan,
    links: Iterable[Link],
    *,
    pinned: frozenset[str],
    whole: frozenset[str],
    nested: Mapping[str, Iterable[Link]] | None = None,
) -> Work:
    """Compare what is wanted with what is there.

    Args:
        plan: what is wanted.
        links: all links of the host; those of others are left alone.
        pinned: the workloads of which any namespace is pinned.
        whole: those of which both are.
        nested: the links inside the namespaces of workloads that have macvlan links, by workload.
    """
    wanted = {host_side(w.key, place.network): (w, position) for w, position, place, _ in places(plan, "bridge")}
    lacking = {w.key for w in plan.workloads if w.key not in whole}
    for w, position, _, _ in places(plan, "macvlan"):
        if not any(is_made(link, plan, w, position) for link in (nested or {}).get(w.key, ())):
            lacking.add(w.key)
    ours = [link for link in links if _is_ours(link)]
    found = {link.name: link for link in ours if link.kind == "veth"}
    made = {name for name, (w, position) in wanted.items() if is_made(found.get(name), plan, w, position)}
    staying = {w.key for w in plan.workloads if w.interfaces and any(is_theirs(link, w) for link in found.values())}
    join: dict[str, tuple[int, ...]] = {}
    for name, (w, position) in wanted.items():
        if name not in made and w.key in staying - lacking:
            join[w.key] = (*join.get(w.key, ()), position)
    lacking |= {w.key for name, (w, _) in wanted.items() if name not in made and w.key not in join}
    bridges = {network.bridge: network for network in plan.bridges}
    kept = {link.name: link for link in ours if link.kind == "bridge" and _is_finished(link, bridges)}
    veths = {name: found[name] for name in made if wanted[name][0].key not in lacking}
    return Work(
        remove=tuple(link for link in ours if link.name not in kept and link.name not in veths),
        unpin=tuple(sorted(pinned - ({workload.key for workload in plan.workloads} - lacking))),
        make_bridges=tuple(network for name, network in bridges.items() if name not in kept),
        attach=tuple(
            (link, network.bridge)
            for w, _, place, network in places(plan, "bridge")
            if (link := veths.get(host_side(w.key, place.network))) and not _is_port(link, kept.get(network.bridge))
        ),
        connect=tuple(workload for workload in plan.workloads if workload.key in lacking),
        join=join,
    )


def is_own_name(name: str) -> bool:
    """Tell whether a link of the host has a name of ours."""
    return re.fullmatch(f"{_HOST_SIDE}|{_BRIDGE}", name) is not None


def _is_ours(link: Link) -> bool:
    pattern = {"veth": _HOST_SIDE, "bridge": _BRIDGE}.get(link.kind)
    return pattern is not None and re.fullmatch(pattern, link.name) is not None


def _is_finished(link: Link, bridges: Mapping[str, Network]) -> bool:
    network = bridges.get(link.name)
    return network is not None and link.up and link.alias == bridge_alias(network)


def _is_port(link: Link, bridge: Link | None) -> bool:
    return bridge is not None and link.master == bridge.index
