"""Workloads that require others: who stops and starts with whom, and which of them are to be started again.

systemd itself stops and restarts who requires a workload, by ``PartOf=``. What is added here is what it cannot know:
what a start that somebody asks for has to start as well; who would be started again by a socket meanwhile; and that a
start is to bring back who was stopped for no other reason, which is marked below ``/run``. A boot starts all anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from hostctl import durable
from hostctl.agent import parsed
from hostctl.agent.generation import Stored
from hostctl.agent.machine import STOPPED_WITH, Machine, starter_units, workload_unit
from hostctl.config.names import Name
from hostctl.config.workload import Workload
from hostctl.layout import HostLayout

Workloads = Mapping[Name, Workload]


def requirers(declared: Workloads, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return who requires workloads, themselves or by others, after what each of them requires of these."""
    order = TopologicalSorter({name: workload.requires for name, workload in declared.items()}).static_order()
    bound, found = set(names), dict[str, tuple[str, ...]]()
    for name in order:
        of = tuple(str(other) for other in declared[name].requires if other in bound) if name in declared else ()
        if of and name not in bound:
            bound.add(str(name))
            found[str(name)] = of
    return found


def needed(declared: Workloads, names: Iterable[str]) -> tuple[str, ...]:
    """Return what else is to be started with workloads, because they or what they start require it."""
    started = _started_with(declared, names)
    required = {other for name in started for other in declared[Name(name)].requires}
    return tuple(str(name) for name in declared if name in required and name not in set(names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirer:
    """A workload that requires another and is up, or will be once others are ready: its units that are."""

    name: str
    of: tuple[str, ...]
    """What it requires of them."""
    starters: tuple[str, ...]
    services: tuple[str, ...]


def up(stored: Stored, machine: Machine, names: Iterable[str]) -> tuple[Requirer, ...]:
    """Return who requires workloads and is up, in the order in which they are to be stopped.

    So is who still waits for one of them to be healthy: its start, which systemd calls off then, is nowhere else.
    """
    found = []
    for name, of in reversed(requirers(_declared(stored), names).items()):
        keys = stored.record.keys(name)
        services = [workload_unit(key) for key in keys]
        starters = [unit for key in keys for unit in starter_units(key)]
        states = machine.states([*starters, *services])
        there = {unit for unit, state in states.items() if state.is_wanted}
        if there:
            kept = [tuple(unit for unit in units if unit in there) for units in (starters, services)]
            found.append(Requirer(name=name, of=of, starters=kept[0], services=kept[1]))
    return tuple(found)


def units(stored: Stored, name: str) -> tuple[str, ...]:
    """Return the units of what is to be started with a workload."""
    also = needed(_declared(stored), [name])
    return tuple(workload_unit(key) for each in also for key in stored.record.keys(each))


def remember(layout: HostLayout, name: str, stopped: Iterable[Requirer]) -> None:
    """Mark who is stopped with a workload, so that its start starts them again; whoever is stopped itself is not."""
    folder = layout.runtime / STOPPED_WITH
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    for each in stopped:
        durable.write_file(folder / each.name, name.encode())


def recall(layout: HostLayout, stored: Stored, name: str) -> Mapping[str, tuple[str, ...]]:
    """Return who was stopped with a workload, or with one that its start starts, and the units that start them."""
    declared = _declared(stored)
    started = _started_with(declared, [name])
    folder = layout.runtime / STOPPED_WITH
    marked = [each for each in requirers(declared, started) if _read(folder / each) in started]
    return {
        each: tuple(f"workload-{key}.{declared[Name(each)].starter}" for key in stored.record.keys(each))
        for each in marked
    }


def forget(layout: HostLayout, names: Iterable[str]) -> None:
    """Remove marks."""
    for name in names:
        (layout.runtime / STOPPED_WITH / name).unlink(missing_ok=True)


def _read(mark: Path) -> str:
    try:
        return mark.read_text()
    except FileNotFoundError:
        return ""


def _started_with(declared: Workloads, names: Iterable[str]) -> Collection[str]:
    """Return workloads and those that their start starts."""
    seen: set[str] = set()
    ahead = [Name(name) for name in names]
    while ahead:
        each = ahead.pop()
        if each not in seen and each in declared:
            seen.add(str(each))
            ahead += declared[each].depends_on
    return seen


def _declared(stored: Stored) -> Workloads:
    return parsed.declaration(stored).workloads
