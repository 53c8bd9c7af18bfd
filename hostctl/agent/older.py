"""The way back of the state: a release that was gone back to may find a generation that only a newer one can read.

What versions the state: every generation names the release that rendered it, and is whole and immutable; lines of the
history and of the update's journal that are not known are passed over; everything else of the state is made anew from
a generation or from the repository. So nothing has to be converted: the newest generation that this release
understands is put in force again, the others are set aside, and volumes are never touched.
"""

from __future__ import annotations

from hostctl.agent import generation
from hostctl.agent.apply import Context, lock
from hostctl.agent.generation import GenerationError, Stored
from hostctl.config.load import parse_host
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.update import history


def _read(layout: HostLayout, number: int) -> Stored | None:
    """Return a generation that this release understands."""
    try:
        stored = generation.load(layout.generations / str(number))
        parse_host(stored.declaration, f"generation {number}")
    except (HostctlError, OSError, UnicodeDecodeError):
        return None
    return stored


def understood(context: Context) -> Stored | None:
    """Return the generation in force, after going back to one that this release understands; none before the first.

    Raises:
        GenerationError: none of them can be read.
        BusyError: another change is under way.
    """
    layout = context.layout
    if not layout.current.is_symlink():
        return None
    name = layout.current.readlink().name
    if name.isdigit() and (stored := _read(layout, int(name))) is not None:
        return stored
    with lock(layout):
        unread: list[int] = []
        for number in reversed(generation.numbers(layout)):
            stored = _read(layout, number)
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
