"""Signals in the middle of an update: it ends in order, says so, and goes on later."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from hostctl.update import history, journal
from hostctl.update.lock import holder
from hostctl.update.stages import MIDDLE, Stage
from hostctl.update.steps import Event, Reached
from hostctl.update.stopping import UpdateStoppedError, stoppable

if TYPE_CHECKING:
    from tests.unit.update.conftest import World


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", [Stage.ROOT, Stage.TREE, Stage.LABEL, Stage.KERNEL])
def test_a_signal_ends_it_in_order(world: World, number: signal.Signals, stage: Stage) -> None:
    world.publish("2")
    before = signal.getsignal(number)

    def interrupt(event: Event) -> None:
        if isinstance(event, Reached) and (event.stage, event.edge) == (stage, MIDDLE):
            os.kill(os.getpid(), number)

    with pytest.raises(UpdateStoppedError, match=number.name) as caught, stoppable():
        world.update(report=interrupt)
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) == before
    last = journal.read(world.host.journal)[-1]
    assert (last.event, last.stage, last.cause) == (journal.FAILED, stage, f"ended by Stop: {number.name}")
    assert history.read(world.host.history)[-1].cause == last.cause
    assert holder(world.host.runtime) is None
    assert world.boots() == "1"
    assert world.update().staged == "2"
    assert world.boots() == "2"


def test_a_second_signal_does_not_disturb_the_ending(world: World) -> None:
    world.publish("2")

    def interrupt(event: Event) -> None:
        if isinstance(event, Reached) and (event.stage, event.edge) == (Stage.ROOT, MIDDLE):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(UpdateStoppedError, match="SIGTERM"), stoppable():
        world.update(report=interrupt)
    assert journal.read(world.host.journal)[-1].cause == "ended by Stop: SIGTERM"
