"""Deltas that publishing makes: from a version in the repository or a build, small, right, listed and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostctl.errors import HostctlError, UsageError
from hostctl.payload.apply import apply
from hostctl.payload.index import Reference, Segment, decode_index
from hostctl.repository.offers import NoReleaseError, Published, promote
from hostctl.repository.publish import publish
from hostctl.repository.release import Delta
from hostctl.repository.stats import stats
from hostctl.repository.store import Named, Store
from hostctl.repository.verify import verify

from .conftest import Workshop


def add(workshop: Workshop, version: str, *delta_from: str) -> Published:
    return publish(workshop.build(version), workshop.repository, workshop.keyring, delta_from=delta_from)


def applied(workshop: Workshop, delta: Delta, old: Path, output: str) -> bytes:
    """Apply a delta from the repository to a build, as a host does, and return an output."""
    index = decode_index((workshop.repository / delta.index.path).read_bytes())
    stored = (workshop.repository / delta.segments.path).read_bytes()
    made = {name: os.memfd_create(name) for name in ("root", "uki")}
    references = {
        Reference.OLD_ROOT: os.open(old / "root.file", os.O_RDONLY),
        Reference.OLD_UKI: os.open(old / "uki.file", os.O_RDONLY),
        Reference.NEW_ROOT: made["root"],
    }

    def give(segment: Segment) -> Iterator[bytes]:
        yield stored[segment.stored_offset : segment.stored_end]

    try:
        for name, target in made.items():
            apply(index, name, index.segments(name), give, references, target, lambda _segment, _made: None)
        return os.pread(made[output], 1 << 20, 0)
    finally:
        for descriptor in {*made.values(), *references.values()}:
            os.close(descriptor)


def test_a_delta_from_a_published_version(workshop: Workshop) -> None:
    add(workshop, "1")
    lines: list[str] = []
    new = workshop.build("2")
    done = publish(new, workshop.repository, workshop.keyring, delta_from=["1"], report=lines.append)
    (delta,) = done.deltas
    assert delta.from_version == "1"
    full = done.release.index.bytes + done.release.segments.bytes
    assert delta.index.bytes + delta.segments.bytes < full / 2
    assert "% of the full payload" in lines[0]
    old = workshop.folder / "build-edge-1-0"
    for output in ("root", "uki"):
        assert applied(workshop, delta, old, output) == (new / f"{output}.file").read_bytes()
    assert verify(workshop.repository).errors == []
    (fetch,) = stats(workshop.repository).fetches
    assert (fetch.running, fetch.newest, fetch.path) == ("1", "2", "delta")
    assert fetch.bytes == delta.index.bytes + delta.segments.bytes + done.release.signature.bytes


def test_a_delta_from_a_build_and_several_at_once(workshop: Workshop) -> None:
    add(workshop, "1")
    done = add(workshop, "3", "1", str(workshop.build("2")), "1")
    assert [delta.from_version for delta in done.deltas] == ["1", "2"]


def test_deltas_are_made_once_and_added_later(workshop: Workshop) -> None:
    add(workshop, "1")
    add(workshop, "2")
    build = workshop.build("3")
    publish(build, workshop.repository, workshop.keyring, delta_from=["1"])
    lines: list[str] = []
    done = publish(build, workshop.repository, workshop.keyring, delta_from=["1", "2"], report=lines.append)
    assert [delta.from_version for delta in done.deltas] == ["1", "2"]
    assert lines[0] == "delta from 1: is there already"
    assert len(lines) == 2


def test_promotion_takes_deltas_along(workshop: Workshop) -> None:
    add(workshop, "1")
    publish(workshop.build("2", channel="beta"), workshop.repository, workshop.keyring, delta_from=["1"])
    done = promote(workshop.repository, workshop.keyring, "2", "stable")
    assert [delta.from_version for delta in done.deltas] == ["1"]


def test_what_a_delta_cannot_start_from(workshop: Workshop) -> None:
    add(workshop, "2")
    before = workshop.files()
    other = workshop.build("1", name="core")
    wrong: list[tuple[str, type[HostctlError]]] = [
        ("9", NoReleaseError),
        ("nowhere/build", NoReleaseError),
        ("2", UsageError),
        (str(other), UsageError),
    ]
    build = workshop.folder / "build-edge-2-0"
    for source, kind in wrong:
        with pytest.raises(kind):
            publish(build, workshop.repository, workshop.keyring, delta_from=[source])
    with pytest.raises(NoReleaseError, match="no repository"):
        publish(build, workshop.folder / "new", workshop.keyring, delta_from=["1"])
    assert workshop.files() == before


def test_an_altered_payload_is_no_start(workshop: Workshop) -> None:
    add(workshop, "1")
    release = Store.open(workshop.repository).release(Named(channel="stable", name="edge", version="1"))
    assert release is not None
    path = workshop.repository / release.segments.path
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(HostctlError):
        add(workshop, "2", "1")
    assert Store.open(workshop.repository).versions("stable", "edge") == ("1",)
