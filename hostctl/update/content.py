"""From a repository into a slot and the EFI system partition: the root and the kernel image of a release.

Whatever arrives is checked on the way; what the disk then holds is proved elsewhere. Segments that are there already,
of a run that was cut off, are not fetched again.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from hostctl.durable import sha256_file, sync_directory
from hostctl.payload.apply import apply, missing
from hostctl.payload.index import Index, PayloadIndexError, Segment, decode_index
from hostctl.payload.stored import StoredSegments
from hostctl.repository.client import RepositoryClient
from hostctl.repository.release import Release
from hostctl.update.esp import StateError
from hostctl.update.slot import RootMismatchError, flush, open_partition
from hostctl.update.stages import FIRST, LAST, MIDDLE, Stage
from hostctl.update.steps import Steps


class _Marks:
    """Reaches the edges inside of a stage as its bytes go by."""

    def __init__(self, steps: Steps, stage: Stage, total: int, marks: dict[str, int]) -> None:
        self._steps, self._stage, self._total, self._left = steps, stage, total, dict(marks)

    def __call__(self, done: int) -> None:
        """Note that so many bytes are done."""
        self._steps.progress(self._stage, done, self._total)
        for edge in [edge for edge, at in self._left.items() if done >= at]:
            del self._left[edge]
            self._steps.reach(self._stage, edge)


def read_index(client: RepositoryClient, release: Release) -> Index:
    """Return the index of a release's full payload.

    Raises:
        PayloadError, PayloadIndexError: what arrived is not the index of this release.
    """
    index = decode_index(client.small(release.index))
    sizes = {"root": release.root_bytes, "uki": release.uki_bytes}
    if index.is_delta or {name: output.bytes for name, output in index.outputs.items()} != sizes:
        raise PayloadIndexError(f"the payload of release {release.version} makes something else")
    return index


def write_root(client: RepositoryClient, release: Release, index: Index, partition: Path, steps: Steps) -> None:
    """Write the root into its partition, not flushed.

    Raises:
        StoredBytesError, SegmentResultError: what arrived is not the root.
        PartitionError, TargetError: the disk did not take it.
    """
    total = release.root_bytes
    marks = _Marks(steps, Stage.ROOT, total, {FIRST: 1, MIDDLE: total // 2, LAST: total})
    descriptor = open_partition(partition)
    try:
        _make(client, release, index, "root", descriptor, marks)
    finally:
        os.close(descriptor)


def write_kernel(client: RepositoryClient, release: Release, index: Index, path: Path, steps: Steps) -> None:
    """Write the kernel image to ``path``, flushed and read back.

    Raises:
        StoredBytesError, SegmentResultError: what arrived is not the kernel image.
        RootMismatchError: it reads back wrong.
        StateError: the EFI system partition did not take it.
    """
    total = release.uki_bytes
    marks = _Marks(steps, Stage.KERNEL, total, {MIDDLE: total // 2})
    try:
        with path.open("w+b") as file:
            _make(client, release, index, "uki", file.fileno(), marks)
        flush(path)
        sync_directory(path.parent)
        found = sha256_file(path)
    except OSError as error:
        raise StateError(
            f"cannot write the kernel image of release {release.version} to the ESP", details=str(error)
        ) from error
    if found != release.uki_sha256:
        raise RootMismatchError(f"the kernel image of release {release.version} reads back wrong from the ESP")


def _make(client: RepositoryClient, release: Release, index: Index, output: str, target: int, marks: _Marks) -> None:
    """Make what an output lacks; ``marks`` is told how many of its bytes are there."""
    segments = missing(index, output, target)
    there = index.outputs[output].bytes - sum(segment.length for segment in segments)

    def report(_segment: Segment, made: int) -> None:
        marks(there + made)

    stored = StoredSegments(segments, partial(client.ranges, release.segments))
    apply(index, output, segments, stored, {}, target, report)
    if not segments:
        marks(there)
