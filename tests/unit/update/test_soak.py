"""A host that is updated again and again, there and back: what it holds stays as much, and each update is one."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from hostctl.boot.slots import find_slots, read_table
from hostctl.update import history, journal

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

UPDATES = 100
SETTLED = 10  # updates after which nothing new may appear


def held(world: World) -> tuple[int, list[str], int]:
    """Return how many descriptors this process has, the names of the state's files, and how many are TUF's."""
    gc.collect()  # what tests before this one left open in cycles is not the updates'
    names = [str(path.relative_to(world.host.state)) for path in world.host.state.rglob("*") if path.is_file()]
    own = sorted(name for name in names if not name.startswith("tuf/"))
    return len(list(Path("/proc/self/fd").iterdir())), own, len(names) - len(own)


def test_a_hundred_updates_leave_nothing_behind(world: World) -> None:
    settled = held(world)
    for number in range(2, 2 + UPDATES):
        running, version = world.host.version, str(number)
        world.update_to(version)
        assert world.boots() == version
        world.bless(version)
        assert sorted(path.name for path in world.host.entries.iterdir()) == sorted(
            [f"host_{running}.efi", f"host_{version}.efi"]
        )
        world = world.rebooted()
        slots = find_slots(read_table(world.host.disk), world.host.root_hash)
        assert (slots.running.release, slots.other.release) == (f"host_{version}", f"host_{running}")
        if number == 1 + SETTLED:
            settled = held(world)
    assert held(world) == settled
    assert world.host.journal.stat().st_size <= journal.MAX_BYTES
    staged = [event.version for event in history.read(world.host.history) if event.event == history.STAGED]
    assert staged == [str(number) for number in range(2, 2 + UPDATES)]
