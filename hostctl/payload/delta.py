"""Makes the payload that leads from one release to another. It runs on the builder only.

Every segment is tried in the ways that the format knows, against the ranges that it is likely to resemble
(:mod:`hostctl.payload.likely`): a copy; a byte-wise difference, piece by piece; zstd with these ranges as a dictionary.
What is smallest wins, but a difference must save so much that it is worth the time that a host takes to add it in
plain Python; where the difference is zero, it takes none. The result is applied and compared before it is returned.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hostctl.payload import difference
from hostctl.payload.apply import apply
from hostctl.payload.boot_image import read_boot_image
from hostctl.payload.erofs import read_erofs
from hostctl.payload.frame import raw_dictionary
from hostctl.payload.index import OUTPUTS, SEGMENT, Index, Method, Output, Range, Reference, Segment, encode_index
from hostctl.payload.likely import Known, Match, Pool, joined, merged
from hostctl.payload.pack import INDEX_NAME, SEGMENTS_NAME, Files, Packed, PackError
from hostctl.payload.parts import Layout, LayoutError, Part
from hostctl.payload.pieces import piecewise
from hostctl.payload.stored import StoredSegments

LEVEL = 19
SMALL = 2048
"""Bytes that a difference may cost without looking for something better."""
COPY_RANGES = 32
"""Ranges of a copy; with more, a dictionary is smaller."""
SEGMENT_RANGES = 96
ALL_RANGES = 8000
"""Ranges of a whole index, so that it stays within its size."""
PRICE = 12 << 10
"""Bytes that a MiB of output to which something is added must save, for the time that adding takes."""
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a segment is made, before it has a place."""

    method: Method
    ranges: tuple[Range, ...]
    stored: bytes


def make_delta(old: Files, new: Files, output: Path, *, size: int = SEGMENT) -> Packed:
    """Write the delta from one release to another to ``output``, an existing folder, and return it.

    It takes some seconds of a processor for each segment that changed, on all processors; memory is a few hundred
    MiB each.

    Args:
        old: the release that hosts run.
        new: the release that they get.
        output: gets the index and the segments file.
        size: bytes of output in a segment.

    Raises:
        PackError: a file is empty, or applying the delta does not give the new release.
        PayloadIndexError: the release has more segments than an index can hold.
    """
    packed = Packed(index=output / INDEX_NAME, segments=output / SEGMENTS_NAME)
    outputs: dict[str, Output] = {}
    with _opened(old, new) as files, packed.segments.open("wb") as store:
        number = sum(-(-len(known.data) // size) for known in files.new.values())
        most = max(4, min(SEGMENT_RANGES, ALL_RANGES // number))
        for name in OUTPUTS:
            maker = _Maker(new=files.new[name], pool=Pool(files.references(name)), most=most)
            rows: list[Segment] = []
            for segment, stored in _segments(name, maker, size, store.tell()):
                rows.append(segment)
                store.write(stored)
            outputs[name] = Output(bytes=len(files.new[name].data), segments=tuple(rows))
        index = Index(outputs=outputs, references=_used(outputs, files.old))
    packed.index.write_bytes(encode_index(index))
    _prove(index, old, new, packed, output)
    return packed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    old: Mapping[str, Known]
    new: Mapping[str, Known]

    def references(self, output: str) -> list[Known]:
        if output == "root":
            return [self.old["root"]]
        return [self.old["uki"], self.new["root"], self.old["root"]]


@contextmanager
def _opened(old: Files, new: Files) -> Iterator[_Opened]:
    with ExitStack() as stack:

        def known(path: Path, source: Reference, output: str) -> Known:
            file = stack.enter_context(path.open("rb"))
            if not path.stat().st_size:
                raise PackError(f"{path} is empty")
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return Known(source=source, data=data, layout=_layout(data, output))

        yield _Opened(
            old={
                "root": known(old.root, Reference.OLD_ROOT, "root"),
                "uki": known(old.uki, Reference.OLD_UKI, "uki"),
            },
            # The new boot image is never a reference; its record has a source because every file has.
            new={
                "root": known(new.root, Reference.NEW_ROOT, "root"),
                "uki": known(new.uki, Reference.NEW_ROOT, "uki"),
            },
        )


def _layout(data: mmap.mmap, output: str) -> Layout:
    """Return the layout of a file; one that cannot be read is one part, and its deltas are larger."""
    try:
        return read_erofs(data) if output == "root" else read_boot_image(data)
    except LayoutError:
        return Layout(parts=(Part(offset=0, length=len(data), name=output),))


def _used(outputs: Mapping[str, Output], old: Mapping[str, Known]) -> dict[Reference, int]:
    used = {part.source for output in outputs.values() for segment in output.segments for part in segment.ranges}
    return {known.source: len(known.data) for known in old.values() if known.source in used}


def _segments(name: str, maker: _Maker, size: int, place: int) -> Iterator[tuple[Segment, bytes]]:
    """Yield the segments of an output with their stored bytes, in order; several are made at once."""
    data = maker.new.data
    starts = range(0, len(data), size)
    # zstd and bsdiff4 let other threads run while they work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        recipes = pool.map(lambda start: maker.make(start, min(start + size, len(data))), starts)
        for start, recipe in zip(starts, recipes, strict=True):
            plain = data[start : start + size]
            segment = Segment(
                output=name,
                offset=start,
                length=len(plain),
                sha256=hashlib.sha256(plain).hexdigest(),
                method=recipe.method,
                ranges=recipe.ranges,
                stored_offset=place,
                stored_bytes=len(recipe.stored),
                stored_sha256=hashlib.sha256(recipe.stored).hexdigest() if recipe.stored else "",
            )
            yield segment, recipe.stored
            place += len(recipe.stored)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maker:
    new: Known
    pool: Pool
    most: int

    def make(self, start: int, end: int) -> Recipe:
        """Return the cheapest way to make the bytes of the new file from ``start`` to ``end``."""
        matches = self.pool.matches(self.new.data, self.new.layout.parts, start, end)
        windows = [match.window for match in matches if match.window is not None]
        plain = self.new.data[start:end]
        exact = joined(windows)
        if len(exact) <= COPY_RANGES and self.pool.read(exact) == plain:
            return Recipe(method=Method.COPY, ranges=exact, stored=b"")
        ranges = merged(windows, self.most)
        reference = self.pool.read(ranges)
        added = _added(plain, start, matches, ranges, reference)
        if added is None or added.cost > SMALL:
            frame = _frame(plain, reference)
            if added is None or len(frame) <= added.cost:
                return Recipe(method=Method.ZSTD, ranges=ranges, stored=frame)
        return Recipe(method=Method.ADD, ranges=ranges, stored=added.frame)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Added:
    frame: bytes
    cost: int
    """Its bytes, and what the time to apply it is worth."""


def _added(
    plain: bytes, start: int, matches: Sequence[Match], ranges: Sequence[Range], reference: bytes
) -> _Added | None:
    """Return the frame of a difference, or none if there is nothing to differ from."""
    if not ranges:
        return None
    try:
        packed, busy = piecewise(plain, start, matches, ranges, reference)
    except difference.DifferenceError:
        return None
    frame = _frame(packed, b"")
    return _Added(frame=frame, cost=len(frame) + PRICE * busy // MIB)


def _frame(data: bytes, dictionary: bytes) -> bytes:
    given = raw_dictionary(dictionary) if dictionary else None
    compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=given, write_checksum=False, write_content_size=True)
    return compressor.compress(data)


def _prove(index: Index, old: Files, new: Files, packed: Packed, folder: Path) -> None:
    """Apply the payload as a host does and compare the results with the new release."""
    with ExitStack() as stack:
        store = stack.enter_context(packed.segments.open("rb"))
        slot = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        boot = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        references = {
            Reference.OLD_ROOT: stack.enter_context(old.root.open("rb")).fileno(),
            Reference.OLD_UKI: stack.enter_context(old.uki.open("rb")).fileno(),
            Reference.NEW_ROOT: slot.fileno(),
        }

        def ranges(start: int, end: int) -> Iterator[bytes]:
            yield os.pread(store.fileno(), end - start, start)

        for name, target in (("root", slot), ("uki", boot)):
            segments = index.segments(name)
            stored = StoredSegments(segments, ranges)
            apply(index, name, segments, stored, references, target.fileno(), lambda _, __: None)
            target.seek(0)
            if hashlib.file_digest(target, "sha256").digest() != _digest(new.by_output[name]):
                raise PackError(f"the delta does not make the new {name}")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
