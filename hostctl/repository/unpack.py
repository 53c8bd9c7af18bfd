"""Makes the root and the boot image of a release out of its full payload, on the publisher, as a host does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.payload.apply import apply
from hostctl.payload.index import OUTPUTS, Index, Segment, decode_index
from hostctl.payload.pack import Files
from hostctl.repository.release import MAX_INDEX, Release


class UnpackError(HostctlError):
    """A release's full payload does not make the release."""

    id = "payload-wrong"


def read_index(path: Path) -> Index:
    """Read a payload's index.

    Raises:
        PayloadIndexError: it is not well formed.
        UnpackError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return decode_index(file.read(MAX_INDEX + 1))
    except OSError as error:
        raise UnpackError(f"cannot read {path}", details=str(error)) from error


def unpack(index_path: Path, segments_path: Path, release: Release, folder: Path) -> Files:
    """Write root and boot image of a release to ``folder`` and return them.

    Raises:
        UnpackError: the payload is a delta, has other sizes than the release, or cannot be read.
        PayloadIndexError, StoredBytesError, SegmentResultError: see ``hostctl.payload``.
    """
    index = read_index(index_path)
    sizes = {"root": release.root_bytes, "uki": release.uki_bytes}
    if index.is_delta or {name: index.outputs[name].bytes for name in OUTPUTS} != sizes:
        raise UnpackError(f"{index_path} is not the index of the full payload of {release.title}")
    try:
        source = os.open(segments_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnpackError(f"cannot read {segments_path}", details=str(error)) from error
    made = {name: folder / name for name in OUTPUTS}

    def stored(segment: Segment) -> Iterator[bytes]:
        yield os.pread(source, segment.stored_bytes, segment.stored_offset)

    try:
        for name, path in made.items():
            with path.open("wb") as file:
                apply(index, name, index.segments(name), stored, {}, file.fileno(), lambda _segment, _bytes: None)
    finally:
        os.close(source)
    return Files(root=made["root"], uki=made["uki"])
