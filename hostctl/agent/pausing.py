"""Workloads that are kept still: frozen by their cgroup, and not checked meanwhile.

One that the agent stills for a moment is marked below ``/run`` before that, so that it runs on whatever happens to the
agent: the next one to start takes the mark away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hostctl.agent import unit_control
from hostctl.agent.machine import Machine, workload_unit
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout


@dataclass(frozen=True, slots=True)
class Freezer:
    """What freezes and thaws a unit."""

    freeze: Callable[[str], None] = unit_control.freeze
    thaw: Callable[[str], None] = unit_control.thaw


FREEZER = Freezer()
"""The kernel's, through systemd."""


def pause(name: str, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let nothing of a workload run; it is not checked meanwhile."""
    checks = [f"workload-{name}.health.timer", f"workload-{name}.health.service"]
    machine.units("stop", list(machine.states(checks)))
    freezer.freeze(workload_unit(name))


def resume(name: str, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let a workload run on, and check it again."""
    freezer.thaw(workload_unit(name))
    machine.units("start", list(machine.states([f"workload-{name}.health.timer"])))


@contextmanager
def still(name: str, layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> Iterator[None]:
    """Keep a workload still until the block ends; one that does not run, or is paused already, is left as it is."""
    unit = workload_unit(name)
    state = machine.states([unit]).get(unit)
    if state is None or not state.is_active or state.paused:
        yield
        return
    mark = layout.runtime / "still" / name
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        pause(name, machine, freezer)
        yield
    finally:
        resume(name, machine, freezer)
        mark.unlink(missing_ok=True)


def recover(layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> tuple[str, ...]:
    """Let run on what an agent kept still that is no more; return the workloads' names."""
    folder = layout.runtime / "still"
    names = sorted(mark.name for mark in folder.iterdir()) if folder.is_dir() else []
    for name in names:
        with suppress(HostctlError):  # it is not running any more
            resume(name, machine, freezer)
        (folder / name).unlink(missing_ok=True)
    return tuple(names)
