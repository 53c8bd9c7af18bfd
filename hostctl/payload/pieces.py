"""Makes the content of an ``add`` segment, piece by piece. It runs on the builder only.

Matching within a piece is bsdiff's, by the library ``bsdiff4``: it is kept up, works in C, lets other threads run,
and gives the three streams that an ``add`` segment consists of. It sees one piece and its window at a time, so a
segment of the kernel takes 3 s and 100 MiB, where the whole kernel at once takes minutes and more than a GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bsdiff4 import core as bsdiff

from hostctl.payload import difference
from hostctl.payload.index import Range
from hostctl.payload.likely import Match

SHORT = 32
"""Bytes; so few are stored as they are."""
_SIGN = 1 << 63


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """Bytes of output made by adding to the reference at ``position``, and bytes that follow as they are."""

    position: int
    added: bytes
    extra: bytes = b""


def piecewise(
    plain: bytes, start: int, matches: Sequence[Match], ranges: Sequence[Range], reference: bytes
) -> tuple[bytes, int]:
    """Return the difference of a segment to its reference, packed, and the bytes that cost arithmetic.

    Args:
        plain: the segment.
        start: its offset in the output, which the matches count from.
        matches: cover the segment.
        ranges: of the segment.
        reference: the bytes of ``ranges``.

    Raises:
        hostctl.payload.difference.DifferenceError: it takes too many steps.
    """
    runs: list[_Run] = []
    for match in matches:
        piece = plain[match.offset - start : match.offset - start + match.length]
        runs += _runs(piece, match, ranges, reference)
    steps, added, extra = _steps(runs)
    return difference.pack(steps, added, extra), difference.busy(added)


def _runs(piece: bytes, match: Match, ranges: Sequence[Range], reference: bytes) -> Iterator[_Run]:
    position = None if match.window is None else place(match.window, ranges)
    if position is None or match.window is None or len(piece) < SHORT:
        yield _Run(position=-1, added=b"", extra=piece)
        return
    window = reference[position : position + match.window.length]
    if window == piece:
        yield _Run(position=position, added=bytes(len(piece)))
        return
    control, added, extra = bsdiff.diff(window, piece)
    old = done = taken = 0
    for add, take, seek in _triples(control):
        yield _Run(position=position + old, added=added[done : done + add], extra=extra[taken : taken + take])
        old += add + seek
        done += add
        taken += take


def _triples(control: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield bsdiff's steps. Its numbers have a sign bit of their own, not two's complement."""
    numbers = [-(value - _SIGN) if value & _SIGN else value for (value,) in struct.iter_unpack("<Q", control)]
    yield from zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)


def place(window: Range, ranges: Sequence[Range]) -> int | None:
    """Return where a window begins in the bytes of ``ranges``, or none if these do not have all of it."""
    before = 0
    for item in ranges:
        inside = window.offset - item.offset
        if item.source == window.source and inside >= 0 and inside + window.length <= item.length:
            return before + inside
        before += item.length
    return None


def _steps(runs: Sequence[_Run]) -> tuple[list[difference.Step], bytes, bytes]:
    """Return runs as steps; what goes on where the last one ended becomes one with it."""
    steps: list[list[int]] = [[0, 0, 0]]
    position = 0
    for run in runs:
        last = steps[-1]
        if run.added:
            if run.position != position:
                last[2] += run.position - position
                steps.append([len(run.added), len(run.extra), 0])
            elif last[1]:
                steps.append([len(run.added), len(run.extra), 0])
            else:
                last[0] += len(run.added)
                last[1] += len(run.extra)
            position = run.position + len(run.added)
        else:
            last[1] += len(run.extra)
    added = b"".join(run.added for run in runs)
    return [(add, take, seek) for add, take, seek in steps], added, b"".join(run.extra for run in runs)
