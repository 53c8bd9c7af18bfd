"""Cut off at every edge of every stage, in both directions: something boots, and a repetition ends the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from hostctl.update.stages import EDGES, FIRST, LAST, MIDDLE, Stage
from hostctl.update.steps import Event, Reached

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

POINTS = [(stage, edge) for stage in tuple(Stage)[1:12] for edge in EDGES[stage]]
COMMITTED = POINTS.index((Stage.COMMIT, MIDDLE))
ONCE = {(Stage.ROOT, FIRST), (Stage.ROOT, MIDDLE), (Stage.ROOT, LAST), (Stage.KERNEL, MIDDLE)}
"""Edges within what is not written again by the run after."""
ROW = [point for point in POINTS if point not in ONCE]


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


@pytest.mark.parametrize("direction", [forwards, backwards])
def test_killed_at_every_edge(world: World, direction: Callable[[World], World]) -> None:
    host = direction(world)
    old, new = host.host.version, str(int(host.host.version) + 1)
    again = host.keep()
    assert host.update().staged == new
    wanted = host.final()
    for number, point in enumerate(POINTS):
        again()
        killed_at(host, point)
        assert host.boots() == (new if number >= COMMITTED else old), point
        outcome = host.update()
        assert outcome.staged == new, point
        assert outcome.written or number >= COMMITTED, point
        assert host.boots() == new, point
        assert host.final() == wanted, point


class Cut(BaseException):
    """What a signal's handler raises."""


@pytest.mark.parametrize("direction", [forwards, backwards])
def test_stopped_at_every_edge_in_one_row(world: World, direction: Callable[[World], World]) -> None:
    host = direction(world)
    old, new = host.host.version, str(int(host.host.version) + 1)
    for point in ROW[: ROW.index((Stage.COMMIT, MIDDLE)) + 1]:

        def stop(event: Event, point: tuple[Stage, str] = point) -> None:
            if isinstance(event, Reached) and (event.stage, event.edge) == point:
                raise Cut

        with pytest.raises(Cut):
            host.update(report=stop)
        assert host.boots() == (new if point == (Stage.COMMIT, MIDDLE) else old), point
    host.update()
    assert host.boots() == new
    assert host.entries == [f"host_{old}.efi", f"host_{new}+3.efi"]


def test_power_cut_after_cut_over_a_whole_update(world: World) -> None:
    forwards(world)
    for point in ROW[: ROW.index((Stage.COMMIT, MIDDLE)) + 1]:
        killed_at(world, point)
        assert world.boots() == ("2" if point == (Stage.COMMIT, MIDDLE) else "1"), point
    assert world.update().staged == "2"
