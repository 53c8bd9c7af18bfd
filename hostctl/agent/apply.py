"""The transaction: stage a generation, put it in force, activate what changed, wait for health; else go back.

Invariants: one writer at a time (a file lock); the generation in force changes by one rename; a marker that is on the
disk from before that rename until health is known lets the next start take back what a crash left half done; applying
what is in force already does nothing at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hostctl import durable
from hostctl.agent import down, exclusive, generation, health, in_turn, parsed, pending
from hostctl.agent.activation import activate, one_after_the_other
from hostctl.agent.down import NOTHING, Down
from hostctl.agent.generation import Content, Draft, Pin, Record, Renewed, Stored
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.outcome import Action, Outcome
from hostctl.agent.pending import Pending
from hostctl.agent.plan import plan, with_images, with_requirers, workloads
from hostctl.agent.rolling import PATIENCE, PAUSE, Changeover, Roll, between, draft
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.layout import HostLayout
from hostctl.workload import instance

Notify = Callable[[str], None]
BOOT_PATIENCE = 3600.0
"""Seconds that a boot waits for whoever changes the machine: as long as who asks for an image does, because a pull may
take so long (:mod:`hostctl.agent.image_service`). A boot on trial is ended earlier, by its own deadline."""


class UnsettledError(HostctlError):
    """The change before this one was cut off, and could not be taken back or ended yet."""

    id = "unsettled"
    exit_code = EXIT_BUSY


class ApplyError(HostctlError):
    """The declaration was not taken; the former generation is in force.

    Args:
        brief, details, hint: as of any error.
        late: the checks and workloads that did not become healthy in time, if that was the cause.
    """

    id = "apply-failed"

    def __init__(self, brief: str, *, details: str = "", hint: str = "", late: tuple[health.Result, ...] = ()) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.late = late


class NotWrittenError(ApplyError):
    """The generation could not be written, so nothing was tried."""

    id = "generation-not-written"


Stager = Callable[[str, HostDeclaration, Stored | None, Draft], Content]
"""Makes the content of a generation from the declaration as written and as parsed, the former generation and what is
decided of it already. It may pull images, and changes nothing that is in force."""

Collect = Callable[[frozenset[str]], object]
"""Removes pulled images but those with these manifest digests."""


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
    pause: Callable[[float], object] = PAUSE.wait
    """Waits so many seconds."""
    starts: Mapping[str, bool] = field(default_factory=dict)
    """Whether new or changed workloads are started, if that does not follow from what is declared."""
    live: frozenset[str] = frozenset()
    """Workloads that run on while they change: only their networks do, and what of them is read at a start."""
    forget_limits: Callable[[Sequence[str]], object] = lambda units: None
    """Lets the limits hold that units declare, where others were set meanwhile; see :mod:`hostctl.agent.limits`."""
    look_up: Callable[[HostDeclaration], Mapping[str, Pin]] = lambda declaration: {}
    """Asks registries what the tags stand for that this change looks up; see :mod:`hostctl.agent.lookups`."""
    lacking: Callable[[HostDeclaration], Sequence[str]] = lambda declaration: ()
    """Names images that are not here, so that workloads are withheld; asked for a machine that has no whole generation.
    By default none is missed, and staging pulls."""
    require: Callable[[], object] = lambda: None
    """Asked before anything is pulled and before anything is changed; what it raises leaves all as it is."""
    wait: in_turn.Wait = health.wait
    """Waits for health."""
    clock: Callable[[], float] = time.monotonic
    patience: float | None = None
    """Seconds that going back may wait, in all, for replicas to be healthy one after the other, if that is bounded."""

    @property
    def changeover(self) -> Changeover:
        """The steps of workloads that change beside themselves."""
        return Changeover(layout=self.layout, machine=self.machine, notify=self.notify, pause=self.pause)


def unsettled(layout: HostLayout) -> bool:
    """Tell whether a change is under way or was cut off, so that :func:`resolve` may have something to do."""
    tried = pending.read(layout)
    return layout.changing_network.exists() if tried is None else not tried.booting


def _record(stored: Stored | None) -> Record | None:
    return stored.record if stored else None


def _declared(stored: Stored | None) -> HostDeclaration | None:
    return parsed.declaration(stored) if stored else None


def _go_back(
    context: Context,
    wanted: Stored,
    former: Stored | None,
    was_down: frozenset[str],
    patience: float = math.inf,
) -> None:
    """Put ``former`` in force again and undo what differs.

    Args:
        context: where and with what.
        wanted: what was tried.
        former: what is gone back to.
        was_down: what is not to be started, by what it is called in ``former``.
        patience: seconds that connections may take to end, at most.
    """
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
    back = with_requirers(with_images(back, _pins(wanted), _pins(former)), tried, target or empty)
    context.changeover.take_back(between(wanted.record, _record(former)), target or empty, patience)
    left = down.taken_back(back, former, was_down, context)
    turns = one_after_the_other(back, target or empty, wanted, former, context, down=left, back=True)
    if turns:
        turns.begin()
    for said in activate(back, target or empty, wanted, former, context, turns, left):
        context.notify(said)
    if turns:
        turns.take(target or empty)
    in_turn.clear(context.layout, context.machine, wanted, *([former] if former else []))


def _pins(stored: Stored | None) -> dict[str, Pin]:
    return {**stored.record.images, **stored.record.mounted} if stored else {}


def resolve(context: Context) -> str:
    """Take back a generation that a crash left untried; return what was done, nothing if all was settled.

    Of one that was settled, the instances leave that it has taken the place of. Call it with the lock held.
    """
    tried = pending.read(context.layout)
    if tried is None and context.changeover.under_way:
        left = context.changeover.finish(generation.current(context.layout))
        return f"what was left of a change is gone: {', '.join(left)}" if left else ""
    if tried is None or tried.booting:
        return ""
    wanted_path = context.layout.generations / str(tried.wanted)
    former_path = context.layout.generations / str(tried.former)
    said = ""
    if wanted_path.is_dir():
        former = generation.load(former_path) if tried.former else None
        wanted = generation.load(wanted_path)
        _go_back(context, wanted, former, down.still(tried.down, wanted, former, context.machine), PATIENCE)
        said = f"generation {tried.wanted} was never seen healthy; went back to {tried.former or 'none'}"
    pending.settle(context.layout)
    return said


def _settled(context: Context) -> str:
    """Return what :func:`resolve` does before another change.

    Raises:
        UnsettledError: it fails; nothing is to be changed on top of what is half done.
    """
    try:
        return resolve(context)
    except (HostctlError, OSError) as error:
        raise UnsettledError(
            f"the change before this one is not settled: {words(error)}",
            details=error.details if isinstance(error, HostctlError) else "",
            hint="nothing was changed; it is tried again before the next change and by systemctl restart hostd",
        ) from error


def wanted_actions(
    declaration: HostDeclaration, former: Stored | None, release: str, pins: Mapping[str, Pin] | None = None
) -> tuple[Action, ...]:
    """Return what applying ``declaration`` would do; ``pins`` say what names stand for now, if that was looked up."""
    old_release = former.record.release if former else release
    old = _declared(former)
    actions = plan(old, declaration, old_release=old_release, new_release=release)
    if former and former.record.withheld and not actions:
        reason = "no workload waits for its image any more"
        return (Action(kind="change", area="images", subject="images", reason=reason),)
    return with_requirers(with_images(actions, _pins(former), pins or {}), old, declaration)


def apply(
    text: str,
    name: str,
    context: Context,
    renewed: Renewed | None = None,
    *,
    base: int | None = None,
    wait: float = 0.0,
) -> Outcome:
    """Make a declaration the one in force, or change nothing.

    At boot it may come into force without its workloads; see :attr:`Context.lacking`.

    Args:
        text: the declaration as written.
        name: what to call it in error messages.
        context: where and with what.
        renewed: images that workloads get; then these must become healthy too, required or not, if they are started.
        base: the generation that the text was made from, if it was: applied over another it would undo that.
        wait: seconds that somebody else may change the machine before.

    Raises:
        DeclarationError: the declaration is wrong.
        BusyError: another change is under way; a boot waits for it.
        UnsettledError: a former one was cut off and could not be taken back.
        OvertakenError: another came between.
        LookUpError: a registry does not say what a tag stands for that is to be looked up; nothing was changed.
        NotWrittenError: there was no room for it, or another fault of the disk; nothing was changed.
        ApplyError: it was tried, did not become healthy, and was taken back.
    """
    declaration = parse_host(text, name)
    layout = context.layout
    with exclusive.lock(layout, wait=BOOT_PATIENCE if context.booting else wait, notify=context.notify):
        said = _settled(context)
        notes: tuple[str, ...] = (said,) if said else ()
        former = generation.current(layout)
        former_number = former.record.number if former else 0
        base = renewed.generation if renewed else base
        if base is not None and base != former_number:
            raise exclusive.OvertakenError(f"generation {former_number} came between", hint="try again")
        context.require()
        lacking = context.lacking(declaration) if former is None or former.record.withheld else ()
        if lacking:
            declaration = parsed.without_workloads(declaration)
            notes += (f"the workloads wait for images that are not here: {', '.join(lacking)}",)
        pins = renewed.pins if renewed else context.look_up(declaration)
        actions = wanted_actions(declaration, former, context.release, pins)
        if former and not actions:
            return Outcome(generation=former_number, former=former_number, actions=(), notes=notes)
        number = max([former_number, *generation.taken(layout)]) + 1
        context.notify(f"rendering generation {number}")
        decided = draft(
            number,
            actions,
            old=_declared(former),
            new=declaration,
            record=_record(former),
            booting=context.booting,
            renewed=pins,
            down=down.look(actions, declaration, former, context).workloads,
        )
        decided = replace(decided, withheld=bool(lacking))
        try:
            content = context.stage(text, declaration, former, decided)
            context.require()
            wanted = generation.store(layout, content)
        except OSError as error:
            hint = f"generation {former_number or 'none'} is in force as before"
            raise NotWrittenError(f"generation {number} could not be written: {words(error)}", hint=hint) from error
        notes += _try(actions, declaration, wanted, former, context, tuple(renewed.pins) if renewed else ())
        if not context.booting:
            notes += _retire(between(_record(former), wanted.record), declaration, context)
        notes += _tidy(context)
        return Outcome(generation=number, former=former_number or None, actions=actions, notes=notes)


def _retire(rolls: tuple[Roll, ...], declaration: HostDeclaration, context: Context) -> tuple[str, ...]:
    """Let old instances leave. The declaration is in force whatever comes of it: a failure is a note."""
    try:
        context.changeover.retire(rolls, declaration)
    except (HostctlError, OSError) as error:
        return (f"an old instance did not leave, which the agent's next start tries again: {words(error)}",)
    return ()


def _tidy(context: Context) -> tuple[str, ...]:
    """Remove old generations, and images that none needs. The declaration is in force: a failure is a note."""
    try:
        generation.prune(context.layout)
    except (HostctlError, OSError) as error:
        return (f"old generations stay on the disk: {words(error)}",)
    try:
        context.collect(generation.pinned(context.layout))
    except (HostctlError, OSError) as error:
        return (f"images that nothing needs stay on the disk: {error}",)
    return ()


def _await(
    declaration: HostDeclaration,
    names: Collection[str],
    wanted: Stored,
    context: Context,
    *,
    left: Down = NOTHING,
    checks: bool = True,
) -> None:
    """Wait for health of workloads, but for what is ``left`` down, and of all checks if ``checks`` are wanted."""

    def keys(name: str) -> tuple[str, ...]:
        return left.without(wanted.record.keys(name))

    report = context.wait(
        declaration,
        context.machine,
        notify=context.notify,
        workloads=[name for name in dict.fromkeys(names) if keys(name)],
        checks=checks,
        keys=keys,
    )
    if not report.healthy:
        raise health.UnhealthyError("the machine did not become healthy", details=report.cause(), late=report.late)


def _try(
    actions: tuple[Action, ...],
    declaration: HostDeclaration,
    wanted: Stored,
    former: Stored | None,
    context: Context,
    renewed: Collection[str] = (),
) -> tuple[str, ...]:
    """Put a generation in force, activate it and wait for health; on any failure go back and raise."""
    layout, rolls = context.layout, between(_record(former), wanted.record)
    number, former_number = wanted.record.number, former.record.number if former else 0
    left = down.look(actions, declaration, former, context)  # once more: staging may have taken long
    tried = Pending(former=former_number, wanted=number, booting=context.booting, down=tuple(sorted(left.before)))
    try:
        pending.mark(layout, tried)
        if former is not None:
            context.changeover.begin(former, wanted, rolls)
        turns = one_after_the_other(actions, declaration, former, wanted, context, down=left)
        if turns:
            turns.begin()
        generation.put_in_force(layout, number)
        notes = activate(actions, declaration, former, wanted, context, turns, left)
        if context.booting:
            return notes
        if turns:
            turns.take(declaration)
            in_turn.clear(layout, context.machine, wanted)
        beside = [roll.name for roll in rolls]
        if beside:  # what is checked by a published port is still the old instance until then
            _await(declaration, beside, wanted, context, left=left, checks=False)
            context.changeover.move(rolls)
        _await(declaration, [*health.required(declaration), *beside, *renewed], wanted, context, left=left)
        # Before it is settled: who is killed from there on does not come back to this.
        context.forget_limits(_replaced(actions, former, context))
        pending.settle(layout)
    except (HostctlError, OSError) as error:
        raise _taken_back(error, wanted, former, context, left.before) from error
    return notes


def _replaced(actions: tuple[Action, ...], former: Stored | None, context: Context) -> list[str]:
    """Return the units of workloads that changed or ended, under every name that they may have had."""
    names = [name for name in workloads(actions, "change", "remove") if name not in context.live]
    return [
        workload_unit(key)
        for name in names
        for key in (*instance.keys(name), *(former.record.keys(name) if former else ()))
    ]


def _taken_back(
    error: HostctlError | OSError, wanted: Stored, former: Stored | None, context: Context, was_down: frozenset[str]
) -> ApplyError:
    """Go back, and return what to say of it."""
    details = error.details if isinstance(error, HostctlError) else ""
    late = error.late if isinstance(error, health.UnhealthyError) else ()
    context.notify("going back to the former generation")
    try:
        _go_back(context, wanted, former, was_down)
        pending.settle(context.layout)
    except (HostctlError, OSError) as second:
        return ApplyError(
            f"generation {wanted.record.number} could not be taken back: {words(second)}",
            details=f"it was to be because of this: {words(error)}\n{details}".rstrip(),
            hint="the agent goes back before the next change and at its next start: systemctl restart hostd",
            late=late,
        )
    return ApplyError(
        f"generation {wanted.record.number} was taken back: {words(error)}",
        details=details,
        hint=f"generation {former.record.number if former else 'none'} is in force again",
        late=late,
    )


def words(error: HostctlError | OSError) -> str:
    """Return in one line what went wrong, and at what if that is known."""
    if isinstance(error, HostctlError):
        return error.brief
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
