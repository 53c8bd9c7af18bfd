"""The whole updater against a disk image, a folder as ESP and a repository on loopback, with the real programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostctl.boot.slots import find_slots, read_table
from hostctl.payload.apply import StoredBytesError
from hostctl.repository.build import BuildError
from hostctl.repository.errors import PayloadError, RepositoryUnavailableError, RepositoryUntrustedError
from hostctl.repository.offers import PublishedError
from hostctl.repository.publish import publish
from hostctl.run import run
from hostctl.update import history
from hostctl.update.lock import UpdateBusyError, locked
from hostctl.update.rollback import RollbackError, rollback
from hostctl.update.slot import RootMismatchError, SlotTooSmallError
from hostctl.update.stages import EDGES, Stage
from hostctl.update.steps import Reached
from hostctl.update.updater import UpdateRefusedError

if TYPE_CHECKING:
    from tests.unit.update.conftest import World

MIB = 1 << 20
ON_THE_WAY = tuple(Stage)[1:12]


def edge(event: Reached) -> tuple[Stage, str]:
    return event.stage, event.edge


def zeros(size: int) -> Callable[[Path], None]:
    """Return what replaces a build's root by ``size`` zeros."""

    def edit(build: Path) -> None:
        (build / "root").write_bytes(bytes(size))

    return edit


def test_nothing_newer(world: World) -> None:
    world.publish("1")
    assert world.update().staged is None
    assert world.entries == ["host_1.efi"]
    assert not history.read(world.host.history)


def test_update_and_again(world: World) -> None:
    world.publish("2")
    world.publish("10")
    reached: list[tuple[Stage, str]] = []
    outcome = world.update(report=lambda event: reached.append(edge(event)) if isinstance(event, Reached) else None)
    assert (outcome.staged, outcome.written) == ("10", True)
    assert reached == [(stage, name) for stage in ON_THE_WAY for name in EDGES[stage]]
    assert world.entries == ["host_1.efi", "host_10+3.efi"]
    assert (world.host.entries / "host_10+3.efi").read_bytes() == (world.folder / "build-10/uki").read_bytes()
    slot = find_slots(read_table(world.host.disk), world.host.root_hash).other
    assert slot.release == "host_10"
    run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash])
    assert slot.root.node.read_bytes()[:MIB] == (world.folder / "build-10/root").read_bytes()
    assert slot.signature.node.read_bytes().rstrip(b"\0") == b'{"rootHash": "10"}'
    assert [event.event for event in history.read(world.host.history)] == [history.STAGED]
    again = world.update()
    assert (again.staged, again.written) == ("10", False)


@pytest.mark.parametrize("name", ["index", "segments", "signature"])
@pytest.mark.parametrize("cut", [False, True])
def test_altered_payload(world: World, name: str, *, cut: bool) -> None:
    world.publish("2")
    path = world.stored(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if cut else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises((PayloadError, StoredBytesError, RepositoryUnavailableError)):
        world.update()
    assert world.entries == ["host_1.efi"]
    assert history.read(world.host.history)[-1].event == history.FAILED
    path.write_bytes(whole)
    assert world.update().staged == "2"
    assert world.other == "host_2"


def test_signed_root_of_another_hash(world: World) -> None:
    world.publish("2", edit=zeros(MIB))
    with pytest.raises(RootMismatchError):
        world.update()
    assert world.entries == ["host_1.efi"]
    assert world.other is None


def test_other_keys(world: World) -> None:
    publish(world.build("2"), world.repository, world.foreign_keys())
    before = world.host.disk.read_bytes()
    with pytest.raises(RepositoryUntrustedError):
        world.update()
    assert world.host.disk.read_bytes() == before
    assert world.entries == ["host_1.efi"]


def test_too_small(world: World) -> None:
    world.update_to("2")
    world.bless("2")
    world.publish("3", size=3 * MIB)
    with pytest.raises(SlotTooSmallError):
        world.update()
    assert world.other == "host_2"


def test_unblessed_host_keeps_its_way_back(world: World) -> None:
    world.update_to("2")
    world.publish("3")
    after = world.rebooted()
    with pytest.raises(UpdateRefusedError, match="not blessed"):
        after.update()
    assert after.entries == ["host_1.efi", "host_2+3.efi"]
    after.bless("2")
    assert after.update().staged == "3"
    assert after.entries == ["host_2.efi", "host_3+3.efi"]


def test_given_up_release_is_not_taken_again(world: World) -> None:
    world.update_to("2")
    (world.host.entries / "host_2+3.efi").rename(world.host.entries / "host_2+0-3.efi")
    assert world.update().staged is None
    assert [event.event for event in history.read(world.host.history)] == [history.STAGED, history.BAD]
    world.publish("3")
    assert world.update().staged == "3"


def test_two_at_once(world: World) -> None:
    with locked(world.host), pytest.raises(UpdateBusyError) as caught:
        world.update()
    assert caught.value.exit_code == 75


def test_rollback(world: World) -> None:
    with pytest.raises(RollbackError):
        rollback(world.host)
    world.update_to("2")
    world.bless("2")
    after = world.rebooted()
    assert rollback(after.host) == "1"
    assert after.entries == ["host_1.efi", "host_2+0.efi"]
    assert world.update().staged is None


def test_rollback_to_damaged_root_is_refused(world: World) -> None:
    world.update_to("2")
    world.bless("2")
    after = world.rebooted()
    node = find_slots(read_table(after.host.disk), after.host.root_hash).other.root.node
    node.write_bytes(b"x" + node.read_bytes()[1:])
    with pytest.raises(RollbackError, match="verify"):
        rollback(after.host)
    assert after.entries == ["host_1.efi", "host_2.efi"]


def test_published_version_never_changes(world: World) -> None:
    world.publish("2")
    assert not publish(world.folder / "build-2", world.repository, world.keys).new
    with pytest.raises(PublishedError, match="other content"):
        world.publish("2", size=2 * MIB)


def test_altered_build_is_not_signed(world: World) -> None:
    build = world.build("2")
    (build / "uki").write_bytes(b"evil" + (build / "uki").read_bytes()[4:])
    with pytest.raises(BuildError, match="manifest"):
        publish(build, world.repository, world.keys)
    assert not list(world.repository.iterdir())
