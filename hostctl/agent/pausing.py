"""Workloads that do not run: kept still, which is frozen by their cgroup and not checked meanwhile, or stopped.

What the agent does of that for a moment is marked below ``/run`` before, so that they run on whatever happens to the
agent: the next one to start undoes what is marked. A boot needs no marks, because it starts what is to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hostctl import durable
from hostctl.agent import unit_control
from hostctl.agent.machine import Machine, UnitState, workload_unit
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout


@dataclass(frozen=True, slots=True)
class Freezer:
    """What freezes and thaws a unit."""

    freeze: Callable[[str], None] = unit_control.freeze
    thaw: Callable[[str], None] = unit_control.thaw


FREEZER = Freezer()
"""The kernel's, through systemd."""

STILL, STOPPED = "still", "stopped"  # folders of marks: by the name of a workload; by why, with units


def pause(name: str, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let nothing of a workload run; it is not checked meanwhile."""
    checks = [f"workload-{name}.health.timer", f"workload-{name}.health.service"]
    machine.units("stop", list(machine.states(checks)))
    freezer.freeze(workload_unit(name))


def resume(name: str, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let a workload run on, and check it again."""
    freezer.thaw(workload_unit(name))
    machine.units("start", list(machine.states([f"workload-{name}.health.timer"])))


def hold(name: str, layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let nothing of a workload run until :func:`release`; if that fails or is cut off it runs on, and is checked."""
    with _mark(layout.runtime / STILL / name):
        try:
            pause(name, machine, freezer)
        except HostctlError:
            resume(name, machine, freezer)
            raise


def release(name: str, layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let a workload run on that is paused, and check it again; so does the next agent if this is cut off."""
    with _mark(layout.runtime / STILL / name):
        resume(name, machine, freezer)


def wake(name: str, layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> None:
    """Let a workload run on if it is paused, and check it again."""
    unit = workload_unit(name)
    state = machine.states([unit]).get(unit)
    if state is not None and state.paused:
        release(name, layout, machine, freezer)


def thaw(states: Mapping[str, UnitState]) -> None:
    """Let units run that are about to be stopped: systemd refuses to stop what is frozen, and it could not end.

    One that cannot be thawed may just have ended. If it is still frozen, to stop it fails, and says so.
    """
    for unit, state in states.items():
        if state.paused:
            with suppress(HostctlError):
                unit_control.thaw(unit)


@contextmanager
def still(name: str, layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> Iterator[None]:
    """Keep a workload still until the block ends; one that does not run, or is paused already, is left as it is."""
    unit = workload_unit(name)
    state = machine.states([unit]).get(unit)
    if state is None or not state.is_active or state.paused:
        yield
        return
    with _marked(layout.runtime / STILL / name, (), lambda: resume(name, machine, freezer)):
        pause(name, machine, freezer)
        yield


@contextmanager
def stopped(
    reason: str,
    units: Sequence[str],
    layout: HostLayout,
    machine: Machine,
    stop: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Keep units stopped until the block ends, for the sake of a volume, or of ``workload.NAME``.

    Args:
        reason: the name of the mark.
        units: they are started afterwards; those that were paused run then.
        layout: the machine.
        machine: the same, as it runs.
        stop: stops them, if that needs more than to ask systemd.
    """
    with _marked(layout.runtime / STOPPED / reason, units, lambda: machine.units("start", units)):
        if stop is None:
            thaw(machine.states(units))
            machine.units("stop", units)
        else:
            stop()
        yield


@contextmanager
def _marked(mark: Path, units: Sequence[str], undo: Callable[[], None]) -> Iterator[None]:
    """Have a mark until what the block does is undone."""
    with _mark(mark, units):
        try:
            yield
        finally:
            undo()


@contextmanager
def _mark(mark: Path, units: Sequence[str] = ()) -> Iterator[None]:
    """Have a mark until the block ends; one that is there is whole."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(mark, "\n".join(units).encode())
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def recover(layout: HostLayout, machine: Machine, freezer: Freezer = FREEZER) -> tuple[str, ...]:
    """Undo what is marked by an agent that is no more; return the names of the marks.

    Nobody waits for what is started: the agent answers only after this.
    """
    still, down = _left(layout.runtime / STILL), _left(layout.runtime / STOPPED)
    for mark in still:
        with suppress(HostctlError):  # it is not running any more
            resume(mark.name, machine, freezer)
        mark.unlink(missing_ok=True)
    for mark in down:
        with suppress(HostctlError):  # a unit is not there any more, which keeps no other from being started
            machine.units("start", mark.read_text().split(), block=False)
        mark.unlink(missing_ok=True)
    return tuple(mark.name for mark in (*still, *down))


def _left(folder: Path) -> list[Path]:
    """Return the marks in a folder. One that was still being written goes: nothing had been done yet."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in found:
        if path.name.startswith("."):
            path.unlink(missing_ok=True)
    return [path for path in found if not path.name.startswith(".")]
