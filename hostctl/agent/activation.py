"""Brings the running system from one generation to another: stops, lays /etc, reloads, starts. Only what changed.

The order is what counts here: what ends is stopped by its old units, before systemd reads the new ones. It waits for no
health; that is for :mod:`hostctl.agent.apply`. Replicas that change one after the other it leaves alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from hostctl.agent import parsed
from hostctl.agent.down import NOTHING, Down
from hostctl.agent.generation import Record, Stored
from hostctl.agent.in_turn import Turns, but, decide, several, unchanged
from hostctl.agent.machine import Machine, starter_units, workload_unit
from hostctl.agent.outcome import Action
from hostctl.agent.plan import following, scaled, touched, workloads
from hostctl.agent.render import AUTO_UPDATE_TIMER, METRICS_SERVICE, METRICS_SOCKET, UPDATE_SERVICE, UPDATE_TIMER
from hostctl.agent.requiring import needed
from hostctl.agent.rolling import between, stop
from hostctl.config import rolling
from hostctl.config.host import HostDeclaration
from hostctl.errors import HostctlError

if TYPE_CHECKING:
    from hostctl.agent.apply import Context

STOP_SECONDS = 60.0
"""That a boot waits for what it stops: longer than the 30 s that a workload has to end unless it declares more
(``stop_grace_period``), and a part of the five minutes that a trial has unless its release says otherwise."""
STOP_PAUSE = 0.5  # seconds between two looks whether it has ended


def activate(
    actions: tuple[Action, ...],
    declaration: HostDeclaration,
    old: Stored | None,
    new: Stored | None,
    context: Context,
    turns: Turns | None = None,
    down: Down = NOTHING,
) -> tuple[str, ...]:
    """Bring the running system from one generation to another; only what ``actions`` name is stopped or started.

    Workloads that change are stopped by their old units and started by their new ones, but for those that change beside
    themselves, and for replicas in ``turns``; of those that get more or fewer replicas the others run on. During boot
    they may be starting already, and are started again; those that end are stopped, but not waited for so long. Those
    in ``down`` are not started. Returns what could not be started or undone: whether that is a failure is for health to
    say.
    """
    machine, block = context.machine, not context.booting
    counted = {*scaled(actions), *(turns.names if turns else ())}
    beside = {roll.name for roll in between(_record(old), _record(new))}
    changed = [name for name in workloads(actions, "change") if name not in beside | context.live | counted]
    stays = {key for name in changed for key in _keys(new, name)}
    ends = [key for name in (*workloads(actions, "remove"), *changed) for key in _keys(old, name)]
    ends += [key for name in sorted(counted) for key in _keys(old, name) if key not in _keys(new, name)]
    if block:
        stopped = stop(machine, ends)
        kept = {workload_unit(key) for key in stays}
        # Else systemd would go on to count as failed what has no unit any more.
        machine.units("reset-failed", [unit for unit in stopped if unit not in kept])
        # After those that waited for it, because its end lets them start; that of a workload which changes waits on.
        machine.units("stop", tuple(machine.states(sorted(_waits(old) - _waits(new)))))
    else:
        end([key for key in ends if key not in stays], context)
        machine.units("stop", tuple(machine.states(sorted(_waits(old) - _waits(new)))), block=False)
    # What only follows others and is left down stays what it came to: with whom it was stopped, that it was completed.
    quiet = {key for name in following(actions) for key in _keys(old, name)}.difference(down.without(ends))
    for key in ends:
        if key not in quiet:
            machine.forget_outcome(key)
        if block and key not in stays:
            machine.forget_workload(key)
    if turns:
        turns.lay(turns.keys)
    else:
        machine.lay_etc(new.path / "etc" if new else None)
    machine.reload_units()
    if touched(actions, "hostname"):
        machine.set_hostname(str(declaration.hostname))
    notes = tuple(machine.apply_sysctl()) if touched(actions, "sysctl") else ()
    if touched(actions, "user"):
        machine.make_homes()
    if touched(actions, "network", "hostname"):
        machine.reload_network(block=block)
    _switch_services(actions, declaration, machine, block=block)
    if touched(actions, "workload", "replicas", "workload-network"):
        machine.refresh_workload_network(block=block)
    wanted = tuple(each for each in actions if each.subject not in down.workloads | context.live)
    return (*notes, *_start(wanted, declaration, old, new, beside, counted, context, down))


def end(keys: Sequence[str], context: Context) -> None:
    """Stop containers that a boot has started or is about to, with what starts them, and forget what they wrote.

    They are of a generation that is gone back from. systemd started them from what was laid over /etc until then, and
    would let them run on without it. A start that still waits for its turn is cancelled. One that does not end in time
    is ended by systemd later, and what it wrote stays.
    """
    machine, by = context.machine, context.clock() + STOP_SECONDS
    units = [unit for key in keys for unit in (*starter_units(key), workload_unit(key))]
    known = tuple(machine.states(units))
    machine.units("stop", known, block=False)
    while (left := _up(machine, known)) and context.clock() < by:
        context.pause(STOP_PAUSE)
    if left:
        context.notify(f"not stopped within {STOP_SECONDS:g} s: {', '.join(left)}")
    machine.units("reset-failed", [unit for unit in known if unit not in left])
    for key in keys:
        if workload_unit(key) not in left:
            machine.forget_workload(key)


def _up(machine: Machine, units: Sequence[str]) -> list[str]:
    states = machine.states(units)
    return [unit for unit in units if unit in states and states[unit].is_up]


def one_after_the_other(
    actions: tuple[Action, ...],
    declaration: HostDeclaration,
    old: Stored | None,
    new: Stored | None,
    context: Context,
    *,
    down: Down = NOTHING,
    back: bool = False,
) -> Turns | None:
    """Return the steps of workloads whose replicas change one after the other; none if there are none, or at boot.

    Args:
        actions: what is done.
        declaration: of the new generation.
        old: the generation that is left.
        new: the one that is gone to.
        context: where and with what.
        down: what is not started.
        back: whether the new one was in force before; replicas that were not changed yet then have no turn.
    """
    if context.booting or old is None or new is None or not several(actions, old.record, new.record):
        return None  # without reading the declaration once more
    found = decide(
        actions,
        old=parsed.declaration(old),
        new=declaration,
        before=old.record,
        after=new.record,
        apart=down.workloads | context.live,
    )
    if not found:
        return None
    return Turns(
        layout=context.layout,
        machine=context.machine,
        before=old,
        after=new,
        turns=but(found, unchanged(context.layout, new.record.number)) if back else found,
        notify=context.notify,
        wait=context.wait,
        clock=context.clock,
        back=back,
        patience=context.patience if back else None,
        down=down.replicas,
    )


def _record(stored: Stored | None) -> Record | None:
    return stored.record if stored else None


def _keys(stored: Stored | None, name: str) -> tuple[str, ...]:
    return stored.record.keys(name) if stored else (name,)


def _waits(stored: Stored | None) -> set[str]:
    """Return the units that wait until a workload is healthy."""
    found = stored.path.glob("etc/systemd/system/workload-*.healthy.service") if stored else ()
    return {path.name for path in found}


def _are_up(machine: Machine, keys: Sequence[str]) -> bool:
    units = [workload_unit(key) for key in keys]
    states = machine.states(units)
    return all(unit in states and states[unit].is_active for unit in units)


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
    old: Stored | None,
    new: Stored | None,
    beside: Collection[str],
    counted: Collection[str],
    context: Context,
    down: Down,
) -> tuple[str, ...]:
    """Start the workloads that are new or changed, or what starts them; return what could not be started.

    Of those in ``counted`` only the replicas that there were not before, and none that are left down.
    """
    machine, block = context.machine, not context.booting
    declared = {str(name): workload for name, workload in declaration.workloads.items()}
    running = () if block else [name for name in workloads(actions, "change") if name not in beside]
    notes = []
    for name in dict.fromkeys((*workloads(actions, "create", "change"), *scaled(actions))):
        there = _keys(old, name) if name in counted else ()
        keys = [key for key in down.without(_keys(new, name)) if key not in there]
        if not keys or (name in beside and _are_up(machine, keys)):
            continue  # there are only fewer of them, or all are down; or it is gone back to, and never left
        context.notify(f"starting workload {name}")
        also = [workload_unit(key) for each in needed(declaration.workloads, [name]) for key in _keys(new, each)]
        try:
            starters = [f"workload-{key}.{declared[name].starter}" for key in keys]
            if name in running:
                machine.units("restart", starters, block=block)
            else:  # nobody waits for the end of a job, which may take hours
                machine.units("start", [*also, *starters], block=block and declared[name].type != "job")
        except HostctlError as error:
            notes.append(f"workload {name} did not start: {error.brief}")
    return tuple(notes)
