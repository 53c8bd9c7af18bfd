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

from hostctl.agent import generation, parsed
from hostctl.agent.apply import Context, lock
from hostctl.agent.generation import GenerationError, Stored
from hostctl.config.versions import compare
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.update import history


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


def understood(context: Context, on_trial: Callable[[], bool]) -> Stored | None:
    """Return the generation in force, after going back to one that this release understands; none before the first.

    Args:
        context: where and with what.
        on_trial: tells whether this release is on trial.

    Raises:
        GenerationError: none of them can be read; or that in force cannot be, and this release is on trial, or newer
            than what made it. Then nothing was changed.
        BusyError: another change is under way.
    """
    layout = context.layout
    if not layout.current.is_symlink():
        return None
    name = layout.current.readlink().name
    stored = _read(layout, name)
    if stored is not None:
        return stored
    if _made_before(layout, name, context.release) or on_trial():
        raise GenerationError(
            f"release {context.release} cannot read generation {name}, which stays in force",
            hint="the release that made it can: a trial goes back to that by itself, else `hostctl rollback` does",
        )
    with lock(layout):
        unread: list[int] = []
        for number in reversed(generation.numbers(layout)):
            stored = _read(layout, str(number))
            if stored is not None:
                _go_back(context, stored, unread)
                return stored
            unread.append(number)
    raise GenerationError("no generation of this host can be read", details=f"tried {unread}")


def _go_back(context: Context, stored: Stored, unread: list[int]) -> None:
    layout, number = context.layout, stored.record.number
    generation.put_in_force(layout, number)
    for each in unread:
        try:
            generation.set_aside(layout, each)
        except OSError as error:  # it is passed over the next time as well
            context.notify(f"generation {each} cannot be set aside: {error}")
    context.machine.lay_etc(stored.path / "etc")
    context.machine.reload_units()
    said = f"generation {unread[0] if unread else number} cannot be read by this release; {number} is in force again"
    history.append(layout.state / "history.jsonl", history.REPAIRED, context.release, said)
    context.notify(said)
