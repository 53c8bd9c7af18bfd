"""Brings the running system from one generation to another: stops, lays /etc, reloads, starts. Only what changed.

The order is what counts here: what ends is stopped by its old units, before systemd reads the new ones. It waits for no
health; that is for :mod:`hostctl.agent.apply`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from hostctl.agent.generation import Record, Stored
from hostctl.agent.machine import Machine, root_unit, workload_unit
from hostctl.agent.plan import Action, touched, workloads
from hostctl.agent.render import AUTO_UPDATE_TIMER, METRICS_SERVICE, METRICS_SOCKET, UPDATE_SERVICE, UPDATE_TIMER
from hostctl.agent.rolling import between, stop
from hostctl.config import rolling
from hostctl.config.host import HostDeclaration
from hostctl.errors import HostctlError

if TYPE_CHECKING:
    from hostctl.agent.apply import Context


def activate(
    actions: tuple[Action, ...],
    declaration: HostDeclaration,
    old: Stored | None,
    new: Stored | None,
    context: Context,
) -> tuple[str, ...]:
    """Bring the running system from one generation to another; only what ``actions`` name is stopped or started.

    Workloads that change are stopped by their old units and started by their new ones, but for those that change beside
    themselves; during boot they may be starting already, and are started again. Returns what could not be started:
    whether that is a failure is for health to say.
    """
    machine, block = context.machine, not context.booting
    beside = {roll.name for roll in between(_record(old), _record(new))}
    idle = _idle(actions, declaration, old, context)
    stays = beside | context.live
    ends = {name: _key(old, name) for name in workloads(actions, "remove", "change") if name not in stays}
    if block:
        stop(machine, list(ends.values()))
    for key in ends.values():
        machine.forget_health(key)
    if block:
        for name in workloads(actions, "remove"):
            machine.forget_workload(ends[name])
    machine.lay_etc(new.path / "etc" if new else None)
    machine.reload_units()
    if touched(actions, "hostname"):
        machine.set_hostname(str(declaration.hostname))
    if touched(actions, "sysctl"):
        machine.apply_sysctl()
    if touched(actions, "user"):
        machine.make_homes()
    if touched(actions, "network", "hostname"):
        machine.reload_network(block=block)
    _switch_services(actions, declaration, machine, block=block)
    if touched(actions, "workload", "workload-network"):
        machine.refresh_workload_network(block=block)
    return _start(tuple(each for each in actions if each.subject not in idle), declaration, new, beside, context)


def _idle(
    actions: tuple[Action, ...], declaration: HostDeclaration, old: Stored | None, context: Context
) -> frozenset[str]:
    """Return the workloads that are not started: those that are by hand only and were not, and those that run on."""
    wanted = set(workloads(actions, "create", "change"))
    manual = {str(name) for name, workload in declaration.workloads.items() if not workload.autostart}
    asked = wanted & manual - set(context.starts)
    states = context.machine.states([workload_unit(_key(old, name)) for name in asked])
    up = {name for name in asked if (found := states.get(workload_unit(_key(old, name)))) and found.is_up}
    return frozenset(asked - up | {name for name, start in context.starts.items() if not start}) | context.live


def _record(stored: Stored | None) -> Record | None:
    return stored.record if stored else None


def _key(stored: Stored | None, name: str) -> str:
    return stored.record.key(name) if stored else name


def _is_up(machine: Machine, key: str) -> bool:
    unit = workload_unit(key)
    state = machine.states([unit]).get(unit)
    return state is not None and state.is_active


def _switch_services(
    actions: tuple[Action, ...], declaration: HostDeclaration, machine: Machine, *, block: bool
) -> None:
    """Start or stop what the host does besides workloads."""
    if touched(actions, "update"):
        waits = declaration.update is not None and declaration.update.unattended
        machine.units("start" if waits else "stop", [UPDATE_TIMER], block=block)
        if block:  # what is waited for may have changed, or a restart that was announced is called off
            machine.units("restart", [UPDATE_SERVICE], block=False)
    if touched(actions, "auto-update"):
        machine.units("start" if rolling.renewed(declaration) else "stop", [AUTO_UPDATE_TIMER], block=block)
    if touched(actions, "metrics"):
        machine.units("stop", [METRICS_SERVICE, METRICS_SOCKET], block=block)
        if declaration.metrics is not None:
            machine.units("start", [METRICS_SOCKET], block=block)


def _start(
    actions: tuple[Action, ...],
    declaration: HostDeclaration,
    new: Stored | None,
    beside: Collection[str],
    context: Context,
) -> tuple[str, ...]:
    """Start the workloads that are new or changed, or what starts them; return what could not be started."""
    machine, block = context.machine, not context.booting
    declared = {str(name): workload for name, workload in declaration.workloads.items()}
    running = () if block else [name for name in workloads(actions, "change") if name not in beside]
    notes = []
    for name in workloads(actions, "create", "change"):
        key = _key(new, name)
        if name in beside and _is_up(machine, key):
            continue  # gone back to, and never left
        context.notify(f"starting workload {name}")
        try:
            starter = f"workload-{key}.{declared[name].starter}"
            if name in running:
                machine.units("restart", [root_unit(key), starter], block=block)
            else:  # nobody waits for the end of a job, which may take hours
                machine.units("start", [starter], block=block and declared[name].type != "job")
        except HostctlError as error:
            notes.append(f"workload {name} did not start: {error.brief}")
    return tuple(notes)
