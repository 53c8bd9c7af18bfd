"""What a change leaves down: what is started by hand only and does not run, and what somebody has stopped.

The latter stays down until somebody starts it, the host boots, or it is changed itself; not for another image under its
tag, nor for a change of what it requires. What was stopped only with a workload that it requires is started with that.
A change that is taken back leaves down what was so before it, also where the agent was killed meanwhile.

Deciding is pure; systemd is asked by :func:`look` and :func:`still`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostctl.agent import parsed, requiring
from hostctl.agent.generation import Stored
from hostctl.agent.machine import Machine, UnitState, workload_unit
from hostctl.agent.outcome import Action
from hostctl.agent.plan import following, scaled, workloads
from hostctl.config.host import HostDeclaration
from hostctl.config.workload import Workload
from hostctl.workload.instance import name_of

if TYPE_CHECKING:
    from hostctl.agent.apply import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class Down:
    """What is not started by a change."""

    workloads: frozenset[str] = frozenset()
    """Those of which nothing is."""
    replicas: frozenset[str] = frozenset()
    """Replicas of others, by what their units are called by."""
    before: frozenset[str] = frozenset()
    """All that were down before, of the workloads that the change is about, by what their units were called by then."""

    def without(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return of what units are called by those that may be started."""
        return tuple(key for key in keys if name_of(key) not in self.workloads and key not in self.replicas)


NOTHING = Down()


def is_down(workload: Workload, service: UnitState | None, starter: UnitState | None = None) -> bool:
    """Tell whether a container is down because that is wanted: it is started by hand only, or somebody has stopped it.

    What has a schedule or sockets is stopped when these are. What has failed was stopped by nobody, unless it is always
    restarted: then it would not be left so, but stopping it ended in a failure, as of one that was killed.

    Args:
        workload: what is declared of it.
        service: the state of its unit.
        starter: that of its schedule or sockets, if it has such.
    """
    if any(state is not None and (state.is_up or state.queued) for state in (service, starter)):
        return False
    if not workload.autostart:
        return True
    first = service if workload.starter == "service" else starter
    if first is None:
        return False
    if first.active == "failed":
        return workload.starter == "service" and workload.restarts.when == "always"
    return first.result == "success"


def look(actions: tuple[Action, ...], declaration: HostDeclaration, former: Stored | None, context: Context) -> Down:
    """Return what a change leaves down, by how it is now.

    Args:
        actions: what is done.
        declaration: the wanted one.
        former: the generation in force.
        context: where and with what.
    """
    before = _found(actions, declaration, former, context)
    own = {str(name) for name, workload in declaration.workloads.items() if not workload.autostart}
    created = set(workloads(actions, "create"))
    follows = frozenset[str]() if context.booting else following(actions)  # a boot starts what was stopped
    names = _changed(actions)
    down = _split((own | follows) & (names - created), before, former)
    down = Down(workloads=down.workloads | (own & created), replicas=_of(follows, down.replicas), before=before)
    again = _started_again(names - down.workloads, former, context) if down.workloads else set()
    return _as_told(down, again, context.starts)


def taken_back(actions: tuple[Action, ...], former: Stored | None, before: frozenset[str], context: Context) -> Down:
    """Return what stays down when a change is taken back.

    Args:
        actions: what is done to take it back.
        former: the generation that is gone back to.
        before: what was down before the change.
        context: where and with what.
    """
    return _as_told(_split(_changed(actions), before, former), (), context.starts)


def still(keys: Collection[str], wanted: Stored, former: Stored | None, machine: Machine) -> frozenset[str]:
    """Return what was down before a change that was cut off, or is started by hand only, and does not run now.

    A boot may have come between, which starts what was stopped.

    Args:
        keys: what was down before it.
        wanted: the generation that was tried.
        former: the one that is gone back to.
        machine: the running system.
    """
    if former is None:
        return frozenset()
    places: dict[str, tuple[Workload, set[str]]] = {}
    for name, workload in parsed.declaration(former).workloads.items():
        own = former.record.keys(str(name))
        tried = wanted.record.keys(str(name)) if len(own) == 1 else ()
        places |= {key: (workload, {key, *tried}) for key in own if key in keys or not workload.autostart}
    units = {key: [unit for each in at for unit in _units(each, workload)] for key, (workload, at) in places.items()}
    states = machine.states([unit for each in units.values() for unit in each])
    up = {name for name, state in states.items() if state.is_up or state.queued}
    return frozenset(key for key, each in units.items() if up.isdisjoint(each))


def _found(
    actions: tuple[Action, ...], declaration: HostDeclaration, former: Stored | None, context: Context
) -> frozenset[str]:
    """Return the containers of the former generation that a change is about, and that are down."""
    if former is None:
        return frozenset()
    both = (parsed.declaration(former), declaration)
    declared = {str(name): workload for one in both for name, workload in one.workloads.items()}
    names = {*workloads(actions, "change", "remove"), *scaled(actions)}
    asked = {
        key: declared[name]
        for name in names
        if not (context.booting and declared[name].autostart)
        for key in former.record.keys(name)
    }
    states = context.machine.states([unit for key, workload in asked.items() for unit in _units(key, workload)])
    return frozenset(
        key
        for key, workload in asked.items()
        if is_down(workload, *(states.get(unit) for unit in _units(key, workload)))
    )


def _units(key: str, workload: Workload) -> tuple[str, ...]:
    """Return a container's unit, and the one that starts it in its own time if there is such."""
    starters = () if workload.starter == "service" else (f"workload-{key}.{workload.starter}",)
    return (workload_unit(key), *starters)


def _changed(actions: tuple[Action, ...]) -> set[str]:
    return {*workloads(actions, "create", "change"), *scaled(actions)}


def _split(names: Iterable[str], before: frozenset[str], former: Stored | None) -> Down:
    """Return which of the workloads were down wholly, and the replicas that were of others."""
    keys = {name: former.record.keys(name) for name in names} if former else {}
    whole = {name for name, each in keys.items() if before.issuperset(each)}
    some = {key for name, each in keys.items() if name not in whole for key in each if key in before}
    return Down(workloads=frozenset(whole), replicas=frozenset(some), before=before)


def _of(names: Collection[str], keys: Iterable[str]) -> frozenset[str]:
    return frozenset(key for key in keys if name_of(key) in names)


def _started_again(names: Iterable[str], former: Stored | None, context: Context) -> set[str]:
    """Return who was stopped for no other reason than that one was which is started now."""
    if former is None:
        return set()
    return {each for name in names for each in requiring.recall(context.layout, former, name)}


def _as_told(down: Down, again: Collection[str], starts: Mapping[str, bool]) -> Down:
    """Return the same but for what is to be started, or not, in any case."""
    wanted = {*again, *(name for name, start in starts.items() if start)}
    unwanted = {name for name, start in starts.items() if not start}
    return Down(
        workloads=frozenset(down.workloads - wanted | unwanted),
        replicas=frozenset(key for key in down.replicas if name_of(key) not in wanted),
        before=down.before,
    )
