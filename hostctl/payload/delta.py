"""Makes the payload that leads from one release to another. It runs on the builder only.

Every segment is tried in the ways that the format knows, against the ranges that it is likely to resemble
(:mod:`hostctl.payload.likely`): a copy; a byte-wise difference, piece by piece; zstd with these ranges as a dictionary.
A difference is smallest, but a host adds it in plain Python, so the time for that is given to the segments where it
saves most. The result is applied and compared before it is returned.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
"""Bytes of a difference's frame for which no other way is looked for."""
COPY_RANGES = 32
"""Ranges of a copy; with more, a dictionary is smaller."""
SEGMENT_RANGES = 96
ALL_RANGES = 8000
"""Ranges of a whole index, so that it stays within its size."""
BUDGET = 7
"""One of so many bytes of output may cost a host the arithmetic of an addition. Then applying still takes less time
than a full payload, whose frames take longer to decompress."""
IDLE = 8
"""An addition costs as much for so many bytes without a difference as for one with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a segment is made, before it has a place."""

    method: Method
    ranges: tuple[Range, ...]
    stored: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Ways:
    """A segment, and the ways to make it that are worth a choice."""

    output: str
    offset: int
    length: int
    sha256: str
    add: Recipe | None = None
    other: Recipe | None = None
    """A copy or a frame of zstd."""
    weight: int = 0
    """Bytes of arithmetic that an addition costs."""

    @property
    def gain(self) -> float:
        """Return the bytes that an addition saves for its weight."""
        if self.add is None or self.other is None:
            return 0.0
        return (len(self.other.stored) - len(self.add.stored)) / max(self.weight, 1)


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
    with _opened(old, new) as files:
        sizes = {name: len(files.new[name].data) for name in OUTPUTS}
        most = max(4, min(SEGMENT_RANGES, ALL_RANGES // sum(-(-length // size) for length in sizes.values())))
        ways: list[Ways] = []
        for name in OUTPUTS:
            maker = _Maker(output=name, new=files.new[name], pool=Pool(files.references(name)), most=most)
            # zstd and bsdiff4 let other threads run while they work.
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                ways += pool.map(lambda start, maker=maker: maker.make(start, size), range(0, sizes[name], size))
        segments = _write(ways, chosen(ways, sum(sizes.values()) // BUDGET), packed.segments)
        outputs = {
            name: Output(bytes=sizes[name], segments=tuple(item for item in segments if item.output == name))
            for name in OUTPUTS
        }
        index = Index(outputs=outputs, references=_used(segments, files.old))
    packed.index.write_bytes(encode_index(index))
    prove(index, old, new, packed.segments, output)
    return packed


def chosen(ways: Sequence[Ways], budget: int) -> list[Recipe]:
    """Return the recipe of each segment: additions where they save most for their weight, as far as the budget goes."""
    left = budget - sum(way.weight for way in ways if way.add is not None and way.other is None)
    taken: set[int] = set()
    for number in sorted(range(len(ways)), key=lambda number: ways[number].gain, reverse=True):
        if ways[number].gain > 0 and ways[number].weight <= left:
            taken.add(number)
            left -= ways[number].weight
    recipes = []
    for number, way in enumerate(ways):
        recipe = way.add if number in taken or way.other is None else way.other
        if recipe is None:
            raise ValueError(f"there is no way to make the segment at {way.offset}")
        recipes.append(recipe)
    return recipes


def _write(ways: Sequence[Ways], recipes: Sequence[Recipe], path: Path) -> list[Segment]:
    segments: list[Segment] = []
    with path.open("wb") as store:
        for way, recipe in zip(ways, recipes, strict=True):
            segment = Segment(
                output=way.output,
                offset=way.offset,
                length=way.length,
                sha256=way.sha256,
                method=recipe.method,
                ranges=recipe.ranges,
                stored_offset=store.tell(),
                stored_bytes=len(recipe.stored),
                stored_sha256=hashlib.sha256(recipe.stored).hexdigest() if recipe.stored else "",
            )
            store.write(recipe.stored)
            segments.append(segment)
    return segments


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


def _used(segments: Sequence[Segment], old: Mapping[str, Known]) -> dict[Reference, int]:
    used = {part.source for segment in segments for part in segment.ranges}
    return {known.source: len(known.data) for known in old.values() if known.source in used}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maker:
    output: str
    new: Known
    pool: Pool
    most: int

    def make(self, start: int, size: int) -> Ways:
        """Return the ways to make the segment of the new file that begins at ``start``."""
        plain = self.new.data[start : start + size]
        matches = self.pool.matches(self.new.data, self.new.layout.parts, start, start + len(plain))
        windows = [match.window for match in matches if match.window is not None]
        way = Ways(output=self.output, offset=start, length=len(plain), sha256=hashlib.sha256(plain).hexdigest())
        exact = joined(windows)
        if len(exact) <= COPY_RANGES and self.pool.read(exact) == plain:
            return replace(way, other=Recipe(method=Method.COPY, ranges=exact, stored=b""))
        ranges = merged(windows, self.most)
        reference = self.pool.read(ranges)
        if ranges:
            way = _with_addition(way, plain, matches, ranges, reference)
        if way.add is not None and len(way.add.stored) <= SMALL:
            return way
        return replace(way, other=Recipe(method=Method.ZSTD, ranges=ranges, stored=_frame(plain, reference)))


def _with_addition(
    way: Ways, plain: bytes, matches: Sequence[Match], ranges: tuple[Range, ...], reference: bytes
) -> Ways:
    try:
        packed, busy = piecewise(plain, way.offset, matches, ranges, reference)
    except difference.DifferenceError:
        return way
    recipe = Recipe(method=Method.ADD, ranges=ranges, stored=_frame(packed, b""))
    return replace(way, add=recipe, weight=busy + way.length // IDLE)


def _frame(data: bytes, dictionary: bytes) -> bytes:
    given = raw_dictionary(dictionary) if dictionary else None
    compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=given, write_checksum=False, write_content_size=True)
    return compressor.compress(data)


def prove(index: Index, old: Files, new: Files, segments_path: Path, folder: Path) -> None:
    """Apply a delta as a host does and compare the results with the new release.

    Args:
        index: of the delta.
        old: the release that it starts from.
        new: the release that it must make.
        segments_path: its segments file.
        folder: gets temporary files of the size of the new release.

    Raises:
        PackError: it makes something else.
        StoredBytesError, SegmentResultError, ReferenceReadError: see :mod:`hostctl.payload.apply`.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        store = stack.enter_context(segments_path.open("rb"))
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
