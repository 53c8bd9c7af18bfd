"""Which replicas of a workload get new connections: those that run and, where there is a check, have passed it.

Each replica has a chain in the packet filter. It holds the redirections to that replica while it serves, and nothing
else: a chain with nothing in it leads on to the next one. So a replica is put in and taken out by one transaction
about nothing but itself, which can be done twice and in any order; no process has to stay for it. Put in it is by its
own start or, with a check, by the first check that passes; taken out by its own stop, its end or a failing check.

What is in the chains is never read back. It follows from two files, which change before the chain does: the pid file of
the replica and what its last check said. The network pass, which replaces the whole table, reads them before and after,
and mends what changed in between; what changes later finds the new table.
"""

from __future__ import annotations

from collections.abc import Collection

from hostctl.layout import HostLayout
from hostctl.network.model import NetworkPlan, WorkloadNetwork
from hostctl.workload import instance


def balanced(plan: NetworkPlan) -> tuple[WorkloadNetwork, ...]:
    """Return the replicas, among those in a plan, over which published ports are spread."""
    several = {each.name for each in plan.workloads if instance.is_replica(each.instance)}
    return tuple(each for each in plan.workloads if each.name in several and each.ports)


def common_chain(name: str) -> str:
    """Return the chain that chooses among the replicas of a workload."""
    return f"replicas-{name}"


def chain(key: str) -> str:
    """Return the chain of one replica."""
    name, number = instance.split(key)
    return f"replica-{name}.{instance.position(number)}"


def serving(layout: HostLayout, keys: Collection[str]) -> frozenset[str]:
    """Return those replicas that are to get new connections."""
    return frozenset(key for key in keys if _serves(layout, key))


def _serves(layout: HostLayout, key: str) -> bool:
    """Tell whether a replica runs and, if it is checked, what the last check of this run said was good."""
    try:
        run = (layout.runtime / "pids" / key).stat().st_mtime_ns
        if not (layout.current / "bundles" / key / "health.check").exists():
            return True
        said, of = (layout.runtime / "health" / key).read_text().split()
    except (OSError, ValueError):
        return False
    return said == "healthy" and of == str(run)
