"""Chooses which ranges of known files a segment is likely to resemble. Pure; a bad choice costs bytes, nothing else.

For every part of a segment, in this order: a file with the same content, wherever it lies; a part with the same
name; a part whose name differs in digits only (another version). Of a part that is cut by the segment, or is not the
same, the window is wider than the part itself, because contents move.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostctl.payload.index import MAX_REFERENCE, Range, Reference
from hostctl.payload.parts import Layout, Part, likeness

SLACK = 256 << 10
"""Bytes on both sides of a window into a part that is not the same."""
NEAR = 4096
"""Ranges with at most this many bytes between them become one: a range costs more than the bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A file that references may point into, with its layout."""

    source: Reference
    data: mmap.mmap
    layout: Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A stretch of the segment, and where something like it is."""

    offset: int
    """In the output."""
    length: int
    window: Range | None
    same: bool
    """Whether the window has the very same bytes, as many as the stretch."""


class Pool:
    """Everything that the segments of an output may refer to. Earlier files are preferred."""

    def __init__(self, files: Sequence[Known]) -> None:
        self._same: dict[bytes, tuple[Range, ...]] = {}
        self._digests: dict[tuple[Reference, Part], bytes] = {}
        self._named: dict[str, list[tuple[Known, Part]]] = defaultdict(list)
        self._alike: dict[str, list[tuple[Known, Part]]] = defaultdict(list)
        self.files = files
        for known in files:
            for part in known.layout.parts:
                self._named[part.name].append((known, part))
                self._alike[likeness(part.name)].append((known, part))
                stretch = (part.offset, part.length)
                self._digests[known.source, part] = self._remember(known, [stretch])
            for content in known.layout.contents:
                self._remember(known, content.stretches)

    def _remember(self, known: Known, stretches: Iterable[tuple[int, int]]) -> bytes:
        digest = _digest(known.data, stretches)
        kept = tuple(Range(source=known.source, offset=offset, length=length) for offset, length in stretches)
        if kept:
            self._same.setdefault(digest, kept)
        return digest

    def read(self, ranges: Iterable[Range]) -> bytes:
        """Return the bytes of ranges, one after the other."""
        data = {known.source: known.data for known in self.files}
        return b"".join(data[item.source][item.offset : item.offset + item.length] for item in ranges)

    def matches(self, data: mmap.mmap, parts: Sequence[Part], start: int, end: int) -> list[Match]:
        """Return a match for every part of the bytes from ``start`` to ``end``, in order.

        Args:
            data: the new file.
            parts: its parts.
            start: of the segment.
            end: of the segment.
        """
        first = bisect.bisect_right(parts, start, key=lambda part: part.offset) - 1
        found: list[Match] = []
        for part in parts[max(first, 0) :]:
            if part.offset >= end:
                break
            low, high = max(part.offset, start), min(part.end, end)
            if low < high:
                found += self._part(data, part, low, high)
        return found

    def _part(self, data: mmap.mmap, part: Part, low: int, high: int) -> list[Match]:
        old = self._resembling(part)
        digest = _digest(data, [(part.offset, part.length)])
        # Of many that are the same, such as padding, the one of the same name has the same neighbours too.
        if old is not None and old[1].length == part.length and self._digests[old[0].source, old[1]] == digest:
            kept = Range(source=old[0].source, offset=old[1].offset, length=part.length)
            return _cut((kept,), part, low, high)
        if digest in self._same:
            return _cut(self._same[digest], part, low, high)
        if old is None:
            return [Match(offset=low, length=high - low, window=None, same=False)]
        known, before = old
        begin = max(before.offset, before.offset + low - part.offset - SLACK)
        finish = min(before.end, before.offset + high - part.offset + SLACK)
        if begin >= finish:
            begin, finish = max(before.offset, before.end - SLACK), before.end
        window = Range(source=known.source, offset=begin, length=finish - begin)
        return [Match(offset=low, length=high - low, window=window, same=False)]

    def _resembling(self, part: Part) -> tuple[Known, Part] | None:
        candidates = self._named.get(part.name) or self._alike.get(likeness(part.name)) or []
        return min(candidates, key=lambda item: abs(item[1].length - part.length), default=None)


def _digest(data: mmap.mmap, stretches: Iterable[tuple[int, int]]) -> bytes:
    digest = hashlib.sha256()
    for offset, length in stretches:
        digest.update(memoryview(data)[offset : offset + length])
    return digest.digest()


def _cut(ranges: Iterable[Range], part: Part, low: int, high: int) -> list[Match]:
    """Return what of the same ranges lies between two offsets of the output."""
    found, place = [], part.offset
    for item in ranges:
        begin, finish = max(place, low), min(place + item.length, high)
        if begin < finish:
            window = Range(source=item.source, offset=item.offset + begin - place, length=finish - begin)
            found.append(Match(offset=begin, length=finish - begin, window=window, same=True))
        place += item.length
    return found


def joined(windows: Iterable[Range]) -> tuple[Range, ...]:
    """Return windows in order, with those that follow each other directly put together."""
    found: list[Range] = []
    for item in windows:
        last = found[-1] if found else None
        if last is not None and last.source == item.source and last.offset + last.length == item.offset:
            found[-1] = Range(source=last.source, offset=last.offset, length=last.length + item.length)
        else:
            found.append(item)
    return tuple(found)


def merged(windows: Iterable[Range], most: int, limit: int = MAX_REFERENCE) -> tuple[Range, ...]:
    """Return windows without overlaps, in the order of their first use; what is near each other becomes one.

    Args:
        windows: what would be good to have.
        most: so many ranges; what lies further apart is put together until there are no more.
        limit: bytes of all together; what does not fit is left out, the last first.
    """
    wanted = list(windows)
    near = NEAR
    while True:
        found = _merged(wanted, near)
        if len(found) <= most:
            break
        near *= 2
    kept: list[Range] = []
    left = limit
    for item in found:
        length = min(item.length, left)
        if length:
            kept.append(Range(source=item.source, offset=item.offset, length=length))
        left -= length
    return tuple(kept)


def _merged(windows: Sequence[Range], near: int) -> list[Range]:
    order = sorted(range(len(windows)), key=lambda number: (windows[number].source, windows[number].offset))
    found: list[tuple[int, Range]] = []
    for number in order:
        item = windows[number]
        first, last = found[-1] if found else (0, None)
        if last is not None and last.source == item.source and item.offset <= last.offset + last.length + near:
            end = max(last.offset + last.length, item.offset + item.length)
            whole = Range(source=last.source, offset=last.offset, length=end - last.offset)
            found[-1] = (min(first, number), whole)
        else:
            found.append((number, item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]
