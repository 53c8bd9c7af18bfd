"""A repository whose server fails while an update is at work: the running release, its entry and its slot stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hostctl_qemu.faulty_http import FaultyServer

from hostctl.boot.slots import find_slots, read_table
from hostctl.errors import HostctlError

if TYPE_CHECKING:
    from tests.unit.update.conftest import World


@pytest.fixture
def server(world: World) -> Iterator[FaultyServer]:
    with FaultyServer(world.repository) as made:
        yield made


def slot_of_the_running(world: World) -> list[bytes]:
    slot = find_slots(read_table(world.host.disk), world.host.root_hash).running
    return [part.node.read_bytes() for part in (slot.root, slot.verity, slot.signature)]


@pytest.mark.parametrize(
    ("part", "mode"),
    [
        ("timestamp", "portal"),
        ("payloads/", "bit-flip"),
        ("payloads/", "gzipped"),
        ("payloads/", "growing"),
        ("payloads/", "missing"),
        ("payloads/", "range-wrong"),
    ],
)
def test_fault(world: World, server: FaultyServer, part: str, mode: str) -> None:
    world = replace(world, source=replace(world.source, url=server.url))
    world.publish("2")
    before = slot_of_the_running(world)
    server.fail(part, mode)
    with pytest.raises(HostctlError) as caught:
        world.update()
    assert caught.value.id
    assert world.entries == ["host_1.efi"]
    assert world.other is None
    assert slot_of_the_running(world) == before
    server.heal()
    assert world.update().staged == "2"
    assert slot_of_the_running(world) == before


def test_a_mirror_whose_segments_are_wrong_is_left(world: World, server: FaultyServer) -> None:
    world.publish("2")
    server.fail(world.stored("segments").name, "other-content")
    world = replace(world, source=replace(world.source, url=server.url, mirrors=(world.source.url,)))
    assert world.update().staged == "2"
