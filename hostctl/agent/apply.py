"""The transaction: stage a generation, put it in force, activate what changed, wait for health; else go back.

Invariants: one writer at a time (a file lock); the generation in force changes by one rename; a marker that is on the
disk from before that rename until health is known lets the next start take back what a crash left half done; applying
what is in force already does nothing at all.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from hostctl import durable
from hostctl.agent import generation, health, spare
from hostctl.agent.generation import Content, Stored
from hostctl.agent.machine import Machine, root_unit, starter_units, workload_unit
from hostctl.agent.plan import Action, plan, touched, workloads
from hostctl.agent.render import METRICS_SERVICE, METRICS_SOCKET, UPDATE_SERVICE, UPDATE_TIMER
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.layout import HostLayout

Notify = Callable[[str], None]


class BusyError(HostctlError):
    """Somebody else is changing this machine."""

    id = "busy"
    exit_code = EXIT_BUSY


class ApplyError(HostctlError):
    """The declaration was not taken; the former generation is in force."""

    id = "apply-failed"


Stager = Callable[[str, HostDeclaration, Stored | None, int], Content]
"""Makes the content of a generation from the declaration as written and as parsed, the former generation and its own
number. It may pull images, and changes nothing that is in force."""

Collect = Callable[[frozenset[str]], object]
"""Removes pulled images but those with these manifest digests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What applying did."""

    generation: int
    former: int | None
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A generation that is being tried, and the one to go back to; 0 is a machine without one."""

    former: int
    wanted: int
    booting: bool = False
    """Rendered during boot: the boot's health check judges it, not the next start of the agent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where and with what to apply."""

    layout: HostLayout
    machine: Machine
    stage: Stager
    release: str
    notify: Notify = lambda text: None
    collect: Collect = lambda digests: None
    booting: bool = False
    """During boot nothing runs yet, starting must not wait, and the boot's own health check judges."""
    starts: Mapping[str, bool] = field(default_factory=dict)
    """Whether new or changed workloads are started, if that does not follow from what is declared."""
    live: frozenset[str] = frozenset()
    """Workloads that run on while they change: only their networks do, and what of them is read at a start."""


@contextmanager
def lock(layout: HostLayout) -> Iterator[None]:
    """Hold the machine's one write lock.

    Raises:
        BusyError: somebody else holds it.
    """
    layout.state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                "another change of this machine is under way", hint="try again when it has ended"
            ) from error
        yield
    finally:
        os.close(descriptor)


def read_pending(layout: HostLayout) -> Pending | None:
    """Return the generation that is being tried; none if everything is settled."""
    try:
        document = json.loads((layout.state / "pending").read_bytes())
        return Pending(
            former=int(document["former"]), wanted=int(document["wanted"]), booting=bool(document["booting"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return Pending(former=0, wanted=0)  # torn by no power cut of ours; treated as settled by resolve()


def _mark_pending(layout: HostLayout, pending: Pending) -> None:
    document = {"former": pending.former, "wanted": pending.wanted, "booting": pending.booting}
    durable.write_file(layout.state / "pending", json.dumps(document).encode())


def settle(layout: HostLayout) -> None:
    """Forget the marker: the generation in force stays."""
    (layout.state / "pending").unlink(missing_ok=True)
    durable.sync_directory(layout.state)
    spare.keep(layout)


def activate(
    actions: tuple[Action, ...], declaration: HostDeclaration, new: Stored | None, context: Context
) -> tuple[str, ...]:
    """Bring the running system from one generation to another; only what ``actions`` name is stopped or started.

    Workloads that change are stopped by their old units and started by their new ones; during boot they may be
    starting already, and are started again. Returns what could not be started: whether that is a failure is for health
    to say.
    """
    machine, block = context.machine, not context.booting
    idle = _idle(actions, declaration, context)
    ending = [name for name in workloads(actions, "remove", "change") if name not in context.live]
    if block:
        _stop(machine, ending)
    for name in ending:
        machine.forget_health(name)
    if block:
        for name in workloads(actions, "remove"):
            machine.forget_workload(name)
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
    return _start(actions, declaration, context, idle)


def _idle(actions: tuple[Action, ...], declaration: HostDeclaration, context: Context) -> frozenset[str]:
    """Return the workloads that are not started: those that are by hand only and were not, and those that run on."""
    wanted = set(workloads(actions, "create", "change"))
    manual = [str(name) for name, workload in declaration.workloads.items() if not workload.autostart]
    asked = sorted(wanted.intersection(manual).difference(context.starts))
    states = context.machine.states([workload_unit(name) for name in asked])
    up = {name for name in asked if (found := states.get(workload_unit(name))) is not None and found.is_up}
    return frozenset({*asked} - up | {name for name, start in context.starts.items() if not start}) | context.live


def _switch_services(
    actions: tuple[Action, ...], declaration: HostDeclaration, machine: Machine, *, block: bool
) -> None:
    """Start or stop what the host does besides workloads."""
    if touched(actions, "update"):
        waits = declaration.update is not None and declaration.update.unattended
        machine.units("start" if waits else "stop", [UPDATE_TIMER], block=block)
        if block:  # what is waited for may have changed, or a restart that was announced is called off
            machine.units("restart", [UPDATE_SERVICE], block=False)
    if touched(actions, "metrics"):
        machine.units("stop", [METRICS_SERVICE, METRICS_SOCKET], block=block)
        if declaration.metrics is not None:
            machine.units("start", [METRICS_SOCKET], block=block)


def _start(
    actions: tuple[Action, ...], declaration: HostDeclaration, context: Context, idle: frozenset[str]
) -> tuple[str, ...]:
    """Start the workloads that are new or changed and not idle, or what starts them; return what could not be."""
    machine, block = context.machine, not context.booting
    declared = {str(name): workload for name, workload in declaration.workloads.items()}
    running = () if block else workloads(actions, "change")
    notes = []
    for name in workloads(actions, "create", "change"):
        if name in idle:
            continue
        context.notify(f"starting workload {name}")
        try:
            starter = f"workload-{name}.{declared[name].starter}"
            if name in running:
                machine.units("restart", [root_unit(name), starter], block=block)
            else:  # nobody waits for the end of a job, which may take hours
                machine.units("start", [starter], block=block and declared[name].type != "job")
        except HostctlError as error:
            notes.append(f"workload {name} did not start: {error.brief}")
    return tuple(notes)


def _stop(machine: Machine, names: Iterable[str]) -> None:
    """Stop workloads with their mounts; one that systemd never got to know, because of a crash, is stopped already."""
    units = [unit for name in names for unit in (*starter_units(name), workload_unit(name), root_unit(name))]
    machine.units("stop", list(machine.states(units)))


def _declared(stored: Stored | None) -> HostDeclaration | None:
    return parse_host(stored.declaration, f"generation {stored.record.number}") if stored else None


def _go_back(context: Context, wanted: Stored, former: Stored | None) -> None:
    """Put ``former`` in force again and undo what differs."""
    if former is None:
        context.layout.current.unlink(missing_ok=True)
        durable.sync_directory(context.layout.state)
    else:
        generation.put_in_force(context.layout, former.record.number)
    tried = _declared(wanted)
    target = _declared(former)
    if tried is None:
        return
    empty = HostDeclaration(version=1, hostname=tried.hostname)
    back = plan(
        tried,
        target or empty,
        old_release=wanted.record.release,
        new_release=former.record.release if former else wanted.record.release,
    )
    activate(back, target or empty, former, context)


def resolve(context: Context) -> str:
    """Take back a generation that a crash left untried; return what was done, nothing if all was settled.

    Call it with the lock held.
    """
    pending = read_pending(context.layout)
    if pending is None or pending.booting:
        return ""
    wanted_path = context.layout.generations / str(pending.wanted)
    former_path = context.layout.generations / str(pending.former)
    said = ""
    if wanted_path.is_dir():
        former = generation.load(former_path) if pending.former else None
        _go_back(context, generation.load(wanted_path), former)
        said = f"generation {pending.wanted} was never seen healthy; went back to {pending.former or 'none'}"
    settle(context.layout)
    return said


def wanted_actions(declaration: HostDeclaration, former: Stored | None, release: str) -> tuple[Action, ...]:
    """Return what applying ``declaration`` would do."""
    old_release = former.record.release if former else release
    return plan(_declared(former), declaration, old_release=old_release, new_release=release)


def apply(text: str, name: str, context: Context) -> Outcome:
    """Make a declaration the one in force, or change nothing.

    Args:
        text: the declaration as written.
        name: what to call it in error messages.
        context: where and with what.

    Raises:
        DeclarationError: the declaration is wrong.
        BusyError: another change is under way.
        ApplyError: it was tried, did not become healthy, and was taken back.
    """
    declaration = parse_host(text, name)
    layout = context.layout
    with lock(layout):
        said = resolve(context)
        notes: tuple[str, ...] = (said,) if said else ()
        former = generation.current(layout)
        former_number = former.record.number if former else 0
        actions = wanted_actions(declaration, former, context.release)
        if former and not actions:
            return Outcome(generation=former_number, former=former_number, actions=(), notes=notes)
        number = max([former_number, *generation.numbers(layout)]) + 1
        context.notify(f"rendering generation {number}")
        wanted = generation.store(layout, context.stage(text, declaration, former, number))
        _mark_pending(layout, Pending(former=former_number, wanted=number, booting=context.booting))
        generation.put_in_force(layout, number)
        notes += _try(actions, declaration, wanted, former, context)
        if not context.booting:
            settle(layout)
        generation.prune(layout)
        notes += _collect(context)
        return Outcome(generation=number, former=former_number or None, actions=actions, notes=notes)


def _collect(context: Context) -> tuple[str, ...]:
    """Remove images that no generation needs. The declaration is in force whatever comes of it: a failure is a note."""
    try:
        context.collect(generation.pinned(context.layout))
    except (HostctlError, OSError) as error:
        return (f"images that nothing needs stay on the disk: {error}",)
    return ()


def _try(
    actions: tuple[Action, ...], declaration: HostDeclaration, wanted: Stored, former: Stored | None, context: Context
) -> tuple[str, ...]:
    """Activate and wait for health; on any failure go back and raise."""
    try:
        notes = activate(actions, declaration, wanted, context)
        if context.booting:
            return notes
        report = health.wait(declaration, context.machine, notify=context.notify)
        if not report.healthy:
            raise health.UnhealthyError("the machine did not become healthy", details=report.cause())
    except HostctlError as error:
        context.notify("going back to the former generation")
        _go_back(context, wanted, former)
        settle(context.layout)
        raise ApplyError(
            f"generation {wanted.record.number} was taken back: {error.brief}",
            details=error.details,
            hint=f"generation {former.record.number if former else 'none'} is in force again",
        ) from error
    return notes
