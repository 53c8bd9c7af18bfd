"""Cut off at every edge of every stage, in both directions: something boots, and a repetition ends the same."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostctl.boot.entries import choose, parse_entries
from hostctl.boot.slots import find_slots, read_table
from hostctl.run import run
from hostctl.update.stages import EDGES, MIDDLE, Stage
from hostctl.update.steps import Event, Reached

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

POINTS = [(stage, edge) for stage in tuple(Stage)[1:12] for edge in EDGES[stage]]
COMMITTED = POINTS.index((Stage.COMMIT, MIDDLE))
DISK_FILES = "disk.raw*"


def forwards(world: World) -> World:
    """From release 1 in the first slot to 2 in the second."""
    world.publish("2")
    return world


def backwards(world: World) -> World:
    """From release 2 in the second slot to 3 in the first."""
    world.update_to("2")
    world.bless("2")
    world.publish("3")
    return world.rebooted()


def kill(point: tuple[Stage, str]) -> Callable[[Event], None]:
    """Return what ends the process at once, as a power cut does."""

    def report(event: Event) -> None:
        if isinstance(event, Reached) and (event.stage, event.edge) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return report


def killed_at(world: World, point: tuple[Stage, str]) -> None:
    """Update in a process of its own that is killed at ``point``."""
    child = os.fork()
    if child == 0:
        try:
            world.update(report=kill(point))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{point} was not reached"


def boots(world: World) -> str:
    """Return the version that the boot loader would start; its root must verify."""
    whole = [path.name for path in world.host.entries.iterdir() if path.stat().st_size]
    entry = choose(parse_entries(whole, "host"))
    assert entry is not None, "nothing boots"
    slots = find_slots(read_table(world.host.disk), world.host.root_hash)
    slot = next(slot for slot in (slots.running, slots.other) if slot.release == entry.release)
    run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash])
    assert (world.host.entries / entry.filename).read_bytes() == world.kernel(entry.version)
    return entry.version


def final(world: World) -> dict[str, bytes]:
    """Return what must be the same however the update came there; table entries have random parts."""
    slot = find_slots(read_table(world.host.disk), world.host.root_hash).other
    files = {path.name: path.read_bytes() for path in world.host.entries.iterdir()}
    parts = {part.node.name: part.node.read_bytes() for part in (slot.root, slot.verity, slot.signature)}
    return files | parts | {"release": str(slot.release).encode(), "hash": slot.root_hash.encode()}


@contextmanager
def afresh(world: World) -> Iterator[Callable[[], None]]:
    """Yield what takes the world back to how it is now."""
    kept = world.folder / "kept"
    kept.mkdir()
    folders = [world.host.entries, world.host.state]

    def keep(source: Path, target: Path) -> None:
        run(["cp", "--sparse=always", *source.glob(DISK_FILES), target])
        for folder in folders:
            shutil.rmtree(target / folder.name, ignore_errors=True)
            shutil.copytree(source / folder.name, target / folder.name)

    world.host.state.mkdir(exist_ok=True)
    keep(world.folder, kept)
    yield lambda: keep(kept, world.folder)


@pytest.mark.parametrize("direction", [forwards, backwards])
def test_killed_at_every_edge(world: World, direction: Callable[[World], World]) -> None:
    host = direction(world)
    old, new = host.host.version, str(int(host.host.version) + 1)
    with afresh(host) as again:
        assert host.update().staged == new
        wanted = final(host)
        for number, point in enumerate(POINTS):
            again()
            killed_at(host, point)
            assert boots(host) == (new if number >= COMMITTED else old), point
            outcome = host.update()
            assert outcome.staged == new, point
            assert outcome.written or number >= COMMITTED, point
            assert boots(host) == new, point
            assert final(host) == wanted, point


class Cut(BaseException):
    """What a signal's handler raises."""


@pytest.mark.parametrize("direction", [forwards, backwards])
def test_stopped_at_every_edge_in_one_row(world: World, direction: Callable[[World], World]) -> None:
    host = direction(world)
    old, new = host.host.version, str(int(host.host.version) + 1)
    for number, point in enumerate(POINTS[: COMMITTED + 1]):

        def stop(event: Event, point: tuple[Stage, str] = point) -> None:
            if isinstance(event, Reached) and (event.stage, event.edge) == point:
                raise Cut

        with pytest.raises(Cut):
            host.update(report=stop)
        assert boots(host) == (new if number >= COMMITTED else old), point
    host.update()
    assert boots(host) == new
    assert host.entries == [f"host_{old}.efi", f"host_{new}+3.efi"]


def test_power_cut_after_cut_over_a_whole_update(world: World) -> None:
    forwards(world)
    for number, point in enumerate(POINTS[: COMMITTED + 1]):
        killed_at(world, point)
        assert boots(world) == ("2" if number >= COMMITTED else "1"), point
    assert world.update().staged == "2"
