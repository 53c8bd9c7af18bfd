"""What a network pass has to do: the difference between the plan and what is there, decided purely.

What a link is for stands in its alias, which ``ip link`` shows. Alias and the flag that it is up are set last, so a
link of ours with the right alias that is up is finished, and one from a pass that was cut is not mistaken for one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hostctl.network.model import NetworkPlan, WorkloadNetwork

BRIDGE_ALIAS = "hostctl bridge"
_HOST_SIDE = r"hc[0-9a-f]{12}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link of the host. ``master`` is the index of the bridge it is a port of, 0 if of none."""

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
    make_bridge: bool = False
    attach: tuple[Link, ...] = ()
    """Finished links that only lost their bridge: the workloads behind them keep their namespaces."""
    connect: tuple[WorkloadNetwork, ...] = ()
    """Workloads that need namespaces and a link, both new."""


def host_side(name: str) -> str:
    """Return the name of workload ``name``'s link on the host: stable, and at most 15 characters (IFNAMSIZ)."""
    return f"hc{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def alias(workload: WorkloadNetwork) -> str:
    """Return what the alias of a workload's finished link says: all that namespaces and link were made from."""
    return f"hostctl workload {workload.name} {workload.address} {workload.userns_start}"


def decide(plan: NetworkPlan, links: Iterable[Link], *, pinned: frozenset[str], whole: frozenset[str]) -> Work:
    """Compare what is wanted with what is there.

    Args:
        plan: what is wanted.
        links: all links of the host; those of others are left alone.
        pinned: the workloads of which any namespace is pinned.
        whole: those of which both are.
    """
    wanted = {host_side(workload.name): workload for workload in plan.workloads}
    bridge: Link | None = None
    kept: dict[str, Link] = {}
    remove = []
    for link in links:
        workload = wanted.get(link.name)
        if link.kind == "bridge" and link.name == plan.bridge:
            if plan.workloads and link.up and link.alias == BRIDGE_ALIAS:
                bridge = link
            else:
                remove.append(link)
        elif link.kind == "veth" and re.fullmatch(_HOST_SIDE, link.name):
            if workload and workload.name in whole and link.up and link.alias == alias(workload):
                kept[workload.name] = link
            else:
                remove.append(link)
    return Work(
        remove=tuple(remove),
        unpin=tuple(sorted(pinned - set(kept))),
        make_bridge=bool(plan.workloads) and bridge is None,
        attach=tuple(link for link in kept.values() if bridge is None or link.master != bridge.index),
        connect=tuple(workload for workload in plan.workloads if workload.name not in kept),
    )
