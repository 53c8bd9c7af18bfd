"""From a repository into a slot and the EFI system partition: the root and the kernel image of a release.

There are two ways to make a release: a delta from the running one, where the repository has it, and the full payload.
Both cut the release into the same kind of segments, so whatever one way has made is not made again by the other. At any
doubt about a delta the full payload takes over, and the reason is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.durable import sha256_file, sync_directory
from hostctl.errors import HostctlError
from hostctl.payload.apply import (
    ReferenceReadError,
    SegmentResultError,
    StoredBytesError,
    TargetError,
    apply,
    missing,
)
from hostctl.payload.index import Index, PayloadIndexError, Reference, Segment, decode_index
from hostctl.payload.stored import StoredSegments
from hostctl.repository.client import RepositoryClient
from hostctl.repository.errors import PayloadError, RepositoryUnavailableError
from hostctl.repository.release import DescriptionError, Payload, Release
from hostctl.update.choose import delta_from
from hostctl.update.slot import RootMismatchError, flush, open_partition
from hostctl.update.stages import FIRST, LAST, MIDDLE, Stage
from hostctl.update.steps import Steps

DOUBTS = (
    DescriptionError,
    PayloadError,
    PayloadIndexError,
    ReferenceReadError,
    RootMismatchError,
    SegmentResultError,
    StoredBytesError,
)
"""What makes another way worth a try: the payload is at fault, or the release that it starts from."""


FLUSH_BYTES = 16 << 20
"""After so much the disk is made to keep what was written, so that a power cut costs no more than that again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """The release that deltas start from."""

    root_hash: str
    root: Path
    """Its root partition."""
    uki: Path
    """Its kernel image in the ESP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to make a release."""

    name: str
    """``delta`` or ``full``."""
    index: Index
    segments: Payload


@dataclass(slots=True)
class Traffic:
    """Counts what came over the network."""

    bytes: int = field(default=0)


class Maker:
    """Makes the outputs of one release; remembers which way it goes."""

    def __init__(self, client: RepositoryClient, release: Release, running: Running, steps: Steps) -> None:
        self._client = client
        self.release = release
        self._running = running
        self._steps = steps
        self._traffic = Traffic()
        self._index_bytes = 0
        self.way = self._delta() or self._full()

    @property
    def fetched(self) -> int:
        """Return how many bytes of payloads came over the network."""
        return self._traffic.bytes

    @property
    def why(self) -> str:
        """Return the way for people."""
        return f"by {self.way.name}: {self.way.segments.bytes + self._index_bytes} bytes"

    def _load(self, payload: Payload) -> bytes:
        data = self._client.small(payload)
        self._traffic.bytes += len(data)
        return data

    def _index(self, payload: Payload) -> Index:
        index = decode_index(self._load(payload))
        self._index_bytes = payload.bytes
        made = {name: output.bytes for name, output in index.outputs.items()}
        if made != {"root": self.release.root_bytes, "uki": self.release.uki_bytes}:
            raise PayloadIndexError(f"the payload of release {self.release.version} makes something else")
        return index

    def _full(self) -> Way:
        index = self._index(self.release.index)
        if index.is_delta:
            raise PayloadIndexError(f"the full payload of release {self.release.version} is a delta")
        return Way(name="full", index=index, segments=self.release.segments)

    def _delta(self) -> Way | None:
        try:
            delta = delta_from(self._client.deltas(self.release.version), self._running.root_hash)
            if delta is None:
                return None
            if sha256_file(self._running.uki) != delta.from_uki_sha256:
                raise PayloadIndexError("the running kernel image is not the one that the delta starts from")
            return Way(name="delta", index=self._index(delta.index), segments=delta.segments)
        except HostctlError as error:
            self._steps.warn(f"no delta: {error.brief}")
        except OSError as error:
            self._steps.warn(f"no delta: the running kernel image cannot be read: {error}")
        return None

    def otherwise(self, error: HostctlError) -> None:
        """Go on with the full payload after ``error``.

        Raises:
            HostctlError: ``error``, if there is no other way.
        """
        if self.way.name == "full" or not _is_doubt(error):
            raise error
        self._steps.warn(f"the delta is left for the full payload: {error.brief}")
        self.way = self._full()

    def make_root(self, partition: Path) -> None:
        """Write what the partition lacks of the root, not flushed.

        Raises:
            HostctlError: one of :data:`DOUBTS`, or nothing answers; or the disk did not take it.
        """
        with _partition(partition) as target:
            self._make(Stage.ROOT, "root", target, {})

    def make_kernel(self, root: Path, path: Path) -> None:
        """Write what ``path`` lacks of the kernel image, flushed and read back.

        Args:
            root: partition with the complete new root.
            path: the temporary file in the ESP; made if it is not there.

        Raises:
            HostctlError: one of :data:`DOUBTS`, or nothing answers; or the ESP did not take it.
        """
        try:
            target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TargetError(f"{path} cannot be opened", details=str(error)) from error
        try:
            self._make(Stage.KERNEL, "uki", target, {Reference.NEW_ROOT: root})
            os.ftruncate(target, self.release.uki_bytes)
        except OSError as error:
            raise TargetError(f"{path} cannot be written", details=str(error)) from error
        finally:
            os.close(target)
        flush(path)
        try:
            sync_directory(path.parent)
            found = sha256_file(path)
        except OSError as error:
            raise TargetError(f"{path} cannot be read back", details=str(error)) from error
        if found != self.release.uki_sha256:
            raise RootMismatchError(f"the kernel image of release {self.release.version} reads back wrong from the ESP")

    def _make(self, stage: Stage, output: str, target: int, more: Mapping[Reference, Path]) -> None:
        """Make an output; a mirror whose bytes are wrong is left for the next."""
        for left in reversed(range(self._client.addresses)):
            try:
                self._make_here(stage, output, target, more)
            except StoredBytesError as error:
                if not left:
                    raise
                self._steps.warn(f"the next mirror is asked: {error.brief}")
                self._client.turn_away()
            else:
                return

    def _make_here(self, stage: Stage, output: str, target: int, more: Mapping[Reference, Path]) -> None:
        wanted = missing(self.way.index, output, target)
        report = _Report(self._steps, stage, wanted, target)
        stored = StoredSegments(wanted, self._ranges(report))
        places = {Reference.OLD_ROOT: self._running.root, Reference.OLD_UKI: self._running.uki, **more}
        used = {part.source for segment in wanted for part in segment.ranges}
        with _references({source: place for source, place in places.items() if source in used}) as references:
            apply(self.way.index, output, wanted, stored, references, target, report)

    def _ranges(self, report: _Report) -> Callable[[int, int], Iterator[bytes]]:
        def ranges(start: int, end: int) -> Iterator[bytes]:
            for piece in self._client.ranges(self.way.segments, start, end):
                self._traffic.bytes += len(piece)
                report.arrived(len(piece))
                yield piece

        return ranges


def _is_doubt(error: HostctlError) -> bool:
    """Tell whether another payload may do better: not when nothing answers, then this one is as good later."""
    if isinstance(error, RepositoryUnavailableError):
        return not error.again
    return isinstance(error, DOUBTS)


class _Report:
    """Tells how far a stage is, reaches the edges inside of it, and has the disk keep up."""

    def __init__(self, steps: Steps, stage: Stage, wanted: tuple[Segment, ...], target: int) -> None:
        self._steps, self._stage, self._target = steps, stage, target
        self._flushed = 0
        self._total = sum(segment.length for segment in wanted)
        self._stored = sum(segment.stored_bytes for segment in wanted)
        self._count, self._number = len(wanted), 0
        self._made = self._arrived = 0

    def arrived(self, count: int) -> None:
        """Note bytes from the network: between segments, which are large for a slow link, they show that it goes on."""
        self._arrived += count
        self._tell()

    def __call__(self, segment: Segment, made: int) -> None:
        """Note that a segment is written."""
        del segment
        self._made, self._number = made, self._number + 1
        if made - self._flushed >= FLUSH_BYTES:
            self._flushed = made
            try:
                os.fdatasync(self._target)
            except OSError as error:
                raise TargetError("the disk did not take what was written", details=str(error)) from error
        self._tell()
        places = {FIRST: 1, MIDDLE: (self._count + 1) // 2, LAST: self._count}
        names = (FIRST, MIDDLE, LAST) if self._stage is Stage.ROOT else (MIDDLE,)
        for edge in names:
            if places[edge] == self._number:
                self._steps.reach(self._stage, edge)

    def _tell(self) -> None:
        by_network = self._total * self._arrived // self._stored if self._stored else 0
        self._steps.progress(self._stage, min(max(self._made, by_network), self._total), self._total)


@contextmanager
def _partition(partition: Path) -> Iterator[int]:
    descriptor = open_partition(partition)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _references(places: Mapping[Reference, Path]) -> Iterator[Mapping[Reference, int]]:
    with ExitStack() as stack:
        found = {}
        for source, place in places.items():
            try:
                found[source] = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ReferenceReadError(f"{source} cannot be read", details=str(error)) from error
            stack.callback(os.close, found[source])
        yield found
