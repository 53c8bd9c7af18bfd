"""The way back of the state: a release that was gone back to may find a generation that only a newer one can read.

What versions the state: every generation names the release that rendered it, and is whole and immutable; lines of the
history and of the update's journal that are not known are passed over; everything else of the state is made anew from
a generation or from the repository. So nothing has to be converted: the newest generation that this release
understands is put in force again, the others are set aside, and volumes are never touched.

A newer release that cannot read what an older one made has a fault of its own, and is to be given up. It puts nothing
else in force: that would bring back what was declared long ago, with users and keys that have been removed since.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hostctl.agent import apply as transaction
from hostctl.agent import exclusive, generation, parsed, pending
from hostctl.agent.activation import activate, end
from hostctl.agent.apply import Context
from hostctl.agent.generation import GenerationError, Stored
from hostctl.agent.outcome import Action, Area, Outcome
from hostctl.agent.pending import Pending
from hostctl.config.versions import compare
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.update import history

AREAS: tuple[Area, ...] = (
    *("hostname", "sysctl", "user", "network", "workload-network", "update", "auto-update", "metrics"),
)
"""What a running system may have otherwise by another generation, besides its workloads."""


def _read(layout: HostLayout, name: str) -> Stored | None:
    """Return a generation that this release understands."""
    if not name.isdigit():
        return None
    try:
        stored = generation.load(layout.generations / name)
        parsed.declaration(stored)
    except (HostctlError, OSError, UnicodeDecodeError):
        return None
    return stored


def _made_before(layout: HostLayout, name: str, release: str) -> bool:
    """Tell whether a generation was rendered by an older release than this one."""
    try:
        made_by = (layout.generations / name / "release").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return False
    return bool(made_by) and compare(made_by, release) < 0


def rerender(context: Context, on_trial: Callable[[], bool]) -> Outcome | None:
    """Render the declaration in force anew by this release; return what that did, nothing before the first.

    Raises:
        GenerationError: as :func:`understood`.
        BusyError, OvertakenError, ApplyError: as :func:`hostctl.agent.apply.apply`.
    """

    def deed() -> Outcome | None:
        with exclusive.lock(context.layout, wait=transaction.BOOT_PATIENCE, notify=context.notify):
            stored = understood(context, on_trial)
        if stored is None:
            return None
        number = stored.record.number
        return transaction.apply(stored.declaration, f"generation {number}", context, base=number)

    return exclusive.anew(deed)


def understood(context: Context, on_trial: Callable[[], bool]) -> Stored | None:
    """Return the generation in force, after going back to one that this release understands; none before the first.

    A change that was cut off is taken back before: what it tried was never seen healthy. Call it with the lock held.

    Args:
        context: where and with what.
        on_trial: tells whether this release is on trial.

    Raises:
        GenerationError: none of them can be read; or one that is needed cannot be, and this release is on trial, or
            newer than what made it. Then nothing was changed.
    """
    layout = context.layout
    if not layout.current.is_symlink():
        return None
    name, cut = layout.current.readlink().name, _cut_off(layout)
    needed = {name, *([str(cut.wanted), str(cut.former)] if cut else [])} - {"0"}
    unread = sorted(each for each in needed if _read(layout, each) is None)
    if not unread:
        said = transaction.resolve(context)
        if said:
            context.notify(said)
        return generation.current(layout)
    if any(_made_before(layout, each, context.release) for each in unread) or on_trial():
        raise GenerationError(
            f"release {context.release} cannot read generation {', '.join(unread)}; what is in force stays so",
            hint="the release that made it can: a trial goes back to that by itself, else `hostctl rollback` does",
        )
    above = cut.wanted if cut else int(name) if name.isdigit() else max(generation.taken(layout), default=0) + 1
    booted = _containers(layout.current)
    stored = _go_back(context, above)
    pending.settle(layout)  # whatever was tried is left as well
    _bring(context, booted, stored)
    return stored


def _cut_off(layout: HostLayout) -> Pending | None:
    """Return the change that is to be taken back, if there is one."""
    tried = pending.read(layout)
    settled = tried is None or tried.booting or not (layout.generations / str(tried.wanted)).is_dir()
    return None if settled else tried


def _go_back(context: Context, above: int) -> Stored:
    """Put the newest generation below ``above`` in force that this release understands: what is not, was taken back.

    Raises:
        GenerationError: there is none.
    """
    layout, unread = context.layout, list[int]()
    for number in reversed(generation.numbers(layout)):
        stored = _read(layout, str(number))
        if stored is None:
            unread.append(number)
        elif number < above:
            _put_in_force(context, number, unread)
            return stored
    raise GenerationError("no generation of this host can be read", details=f"tried {unread}")


def _put_in_force(context: Context, number: int, unread: list[int]) -> None:
    layout = context.layout
    which = ", ".join(map(str, sorted(unread))) or layout.current.readlink().name
    generation.put_in_force(layout, number)
    for each in unread:
        try:
            generation.set_aside(layout, each)
        except OSError as error:  # it is passed over the next time as well
            context.notify(f"generation {each} cannot be set aside: {error}")
    said = f"generation {which} cannot be read by this release; {number} is in force again"
    history.note(layout.state / "history.jsonl", context.notify, history.REPAIRED, context.release, said)
    context.notify(said)


def _containers(folder: Path) -> frozenset[str]:
    """Return what the units of containers are called by, of a generation that may be unreadable otherwise."""
    bundles = folder / "bundles"
    return frozenset(path.name for path in bundles.iterdir()) if bundles.is_dir() else frozenset()


def _bring(context: Context, booted: frozenset[str], stored: Stored) -> None:
    """Bring the running system to a generation from one of which only the containers are known.

    Those that only that one had are stopped; everything else is as if it had changed.
    """
    declaration = parsed.declaration(stored)
    names = [str(name) for name in declaration.workloads]
    stays = {key for name in names for key in stored.record.keys(name)}
    ends = sorted(booted - stays)
    end(ends, context)
    for key in ends:
        context.machine.forget_outcome(key)
    reason = f"generation {stored.record.number} is in force again"
    actions = [Action(kind="change", area=area, subject=area, reason=reason) for area in AREAS]
    actions += [Action(kind="change", area="workload", subject=name, reason=reason) for name in names]
    for note in activate(tuple(actions), declaration, stored, stored, context):
        context.notify(note)
