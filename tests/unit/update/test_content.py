"""How a release is made: by a delta, by the full payload at any doubt, and what is fetched after a cut."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hostctl.payload.apply import StoredBytesError
from hostctl.repository.errors import RepositoryUnavailableError
from hostctl.repository.release import Delta, Payload
from hostctl.run import run
from hostctl.update import journal
from hostctl.update.journal import STARTED
from hostctl.update.stages import LAST, MIDDLE, Stage
from hostctl.update.steps import Event, Progressed, Reached, Warned
from hostctl.update.updater import Outcome

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

MIB = 1 << 20
SEGMENT = 4 * MIB


def updated(world: World) -> tuple[Outcome, list[str]]:
    """Update and return the outcome with the warnings; what is staged must be whole."""
    said: list[str] = []
    outcome = world.update(report=lambda event: said.append(event.text) if isinstance(event, Warned) else None)
    assert outcome.staged == "2"
    assert world.boots() == "2"
    return outcome, said


def path_of(payload: Payload) -> str:
    return f"/{payload.path}"


def test_the_delta_from_the_running_release_is_taken(world: World) -> None:
    made = world.publish_delta("2")
    outcome, said = updated(world)
    assert (outcome.path, said) == ("delta", [])
    assert outcome.fetched == made.delta.index.bytes + made.delta.segments.bytes
    assert world.server.sent["/" + str(world.stored("segments").relative_to(world.repository))] == 0
    started = next(line for line in journal.read(world.host.journal) if line.event == STARTED)
    assert started.cause == f"update from 1, by delta: {outcome.fetched} bytes"


@pytest.mark.parametrize("name", ["index", "segments"])
@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_the_full_payload_takes_over_and_the_reason_is_told(world: World, name: str, damage: str) -> None:
    made = world.publish_delta("2")
    payload = made.delta.index if name == "index" else made.delta.segments
    path = world.repository / payload.path
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    outcome, said = updated(world)
    assert outcome.path == "full"
    assert len(said) == 1
    assert "delta" in said[0]


def test_a_delta_for_another_kernel_image_is_not_tried(world: World) -> None:
    made = world.publish_delta("2", alter=lambda delta: replace(delta, from_uki_sha256="00" * 32))
    outcome, said = updated(world)
    assert outcome.path == "full"
    assert said == ["no delta: the running kernel image is not the one that the delta starts from"]
    assert world.server.sent[path_of(made.delta.index)] == 0


def test_a_delta_from_another_release_is_none(world: World) -> None:
    def from_another(delta: Delta) -> Delta:
        return replace(delta, from_root_hash="00" * 32)

    world.publish_delta("2", alter=from_another)
    outcome, said = updated(world)
    assert (outcome.path, said) == ("full", [])


def test_a_running_root_that_is_damaged_is_no_source(world: World) -> None:
    world.publish_delta("2")
    with world.running_root.open("r+b") as file:
        file.write(b"damaged")
    said: list[str] = []
    outcome = world.update(report=lambda event: said.append(event.text) if isinstance(event, Warned) else None)
    assert outcome.path == "full"
    assert "left for the full payload" in said[0]
    slot = world.slot
    run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash])


def test_what_the_delta_made_is_not_fetched_again(world: World) -> None:
    made = world.publish_delta("2")
    path = world.repository / made.delta.segments.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")  # the end of the kernel image, which comes last
    outcome, said = updated(world)
    assert outcome.path == "full"
    assert len(said) == 1
    full = "/" + str(world.stored("segments").relative_to(world.repository))
    assert world.server.sent[full] < world.stored("segments").stat().st_size // 2, "the root was fetched twice"


def test_a_delta_whose_server_falls_silent_is_left_to_the_next_run(world: World) -> None:
    made = world.publish_delta("2")
    world.server.cut_after[path_of(made.delta.segments)] = made.delta.segments.bytes // 2
    with pytest.raises(RepositoryUnavailableError):
        world.update()
    assert world.server.sent["/" + str(world.stored("segments").relative_to(world.repository))] == 0
    assert world.boots() == "1"
    world.server.cut_after.clear()
    outcome, said = updated(world)
    assert (outcome.path, said) == ("delta", [])


def test_only_the_rest_is_fetched_after_a_cut(large_world: World) -> None:
    world, size = large_world, 5 * SEGMENT
    world.publish("2", content=random.Random(1).randbytes(size))  # noqa: S311 - data
    segments = world.stored("segments")
    child = os.fork()
    if child == 0:

        def kill(event: Event) -> None:
            if isinstance(event, Reached) and (event.stage, event.edge) == (Stage.ROOT, MIDDLE):
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            world.update(report=kill)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    outcome, _ = updated(world)
    left = 2 * SEGMENT
    assert left <= outcome.fetched < left + SEGMENT // 2
    assert outcome.fetched < segments.stat().st_size // 2


def test_a_lost_connection_is_an_error_and_the_next_run_goes_on(large_world: World) -> None:
    world = large_world
    world.publish("2", content=random.Random(1).randbytes(5 * SEGMENT))  # noqa: S311 - data
    path = "/" + str(world.stored("segments").relative_to(world.repository))
    world.server.cut_after[path] = 3 * SEGMENT + 100_000
    with pytest.raises((RepositoryUnavailableError, StoredBytesError)):
        world.update()
    assert world.boots() == "1"
    world.server.cut_after.clear()
    outcome, _ = updated(world)
    assert 2 * SEGMENT <= outcome.fetched < 2 * SEGMENT + SEGMENT // 2


def test_download_fills_the_slot_and_stage_needs_no_payload(world: World) -> None:
    world.publish("2")
    outcome = world.update("download")
    assert (outcome.staged, outcome.available, outcome.written) == (None, "2", True)
    assert world.entries == ["host_1.efi"]
    assert world.boots() == "1"
    again = world.update("download")
    assert (again.available, again.written) == ("2", False)
    world.stored("segments").unlink()
    outcome, said = updated(world)
    assert said == []
    assert world.entries == ["host_1.efi", "host_2+3.efi"]


def test_check_changes_nothing(world: World) -> None:
    world.publish("2")
    before = world.host.disk.read_bytes()
    assert world.update("check").available == "2"
    assert world.host.disk.read_bytes() == before
    assert [path.name for path in world.host.entries.iterdir()] == ["host_1.efi"]


def test_progress_is_monotonic_and_ends_at_its_total(large_world: World) -> None:
    world = large_world
    world.publish("2", content=random.Random(1).randbytes(3 * SEGMENT))  # noqa: S311 - data
    told: list[Progressed] = []
    world.update(report=lambda event: told.append(event) if isinstance(event, Progressed) else None)
    root = [event for event in told if event.stage is Stage.ROOT]
    assert [event.bytes for event in root] == sorted(event.bytes for event in root)
    assert root[-1].bytes == root[-1].total == 3 * SEGMENT
    assert len(root) > 20, "no word between segments"
    assert root[-1].left == 0
    assert root[-1].rate > 0


def test_a_slot_that_lost_what_it_held_is_filled_anew(world: World) -> None:
    world.publish("2")

    def stop(event: Event) -> None:
        if isinstance(event, Reached) and event.stage is Stage.COMMIT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.update(report=stop)
    node = world.slot.root.node
    with node.open("r+b") as file:
        file.seek(MIB // 2)
        file.write(b"lost")
    reached: list[tuple[Stage, str]] = []
    world.update(report=lambda event: reached.append((event.stage, event.edge)) if isinstance(event, Reached) else None)
    assert (Stage.ROOT, LAST) in reached
    assert world.boots() == "2"
