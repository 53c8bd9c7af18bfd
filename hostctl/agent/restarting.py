"""Restarts workloads: all at once, or replicas one after the other, so that the others serve meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hostctl.agent import health, in_turn, parsed, pausing
from hostctl.agent.generation import Stored
from hostctl.agent.machine import Machine, workload_unit


def running(keys: Sequence[str], machine: Machine) -> tuple[str, ...]:
    """Return those containers that are up, or on their way."""
    units = {key: workload_unit(key) for key in keys}
    states = machine.states(list(units.values()))
    return tuple(key for key, unit in units.items() if unit in states and states[unit].is_up)


def at_once(keys: Sequence[str], machine: Machine) -> None:
    """Restart containers that are up, paused ones too."""
    units = [workload_unit(key) for key in keys]
    if units:
        pausing.thaw(machine.states(units))
        machine.units("restart", units)


def in_order(
    keys: Sequence[str],
    restart: Callable[[str], None],
    stored: Stored,
    machine: Machine,
    *,
    notify: Callable[[str], None],
    wait: in_turn.Wait = health.wait,
) -> None:
    """Restart replicas, each when the one before is healthy; the first that does not become so is the last of them.

    Args:
        keys: of the replicas, of one workload.
        restart: restarts one.
        stored: the generation that they run from.
        machine: the running system.
        notify: told what is waited for.
        wait: waits.

    Raises:
        UnhealthyError: one did not become healthy in the time that the workload has for that.
    """
    for number, key in enumerate(keys, 1):
        restart(key)
        if number < len(keys):
            report = in_turn.await_healthy(
                key, stored.record, parsed.declaration(stored), machine, notify=notify, wait=wait
            )
            if not report.healthy:
                raise _unhealthy([stored.record.label(each) for each in keys[number - 1 :]], report)


def _unhealthy(labels: Sequence[str], report: health.Report) -> health.UnhealthyError:
    this, *others = labels
    return health.UnhealthyError(
        f"{this} did not become healthy after its restart; not restarted: {', '.join(others)}",
        details=report.cause(),
        hint=f"hostctl logs {this}",
    )
