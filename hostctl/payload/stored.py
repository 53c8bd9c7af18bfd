"""Reads stored segments from a server in few requests: neighbours in the segments file come as one stream.

A full payload of 300 MiB has 80 segments, which are one request this way; a delta has some, most of them small. What
a stream gives is checked by whoever applies it, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hostctl.payload.index import Segment

Ranges = Callable[[int, int], Iterator[bytes]]
"""Returns the bytes of the segments file from the first number up to, without, the second."""


def stretches(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return the stretches (begin, end) of the segments file that these segments are stored in, in their order."""
    found: list[tuple[int, int]] = []
    for segment in segments:
        if not segment.stored_bytes:
            continue
        if found and found[-1][1] == segment.stored_offset:
            found[-1] = (found[-1][0], segment.stored_end)
        else:
            found.append((segment.stored_offset, segment.stored_end))
    return found


class StoredSegments:
    """Gives the stored bytes of segments one after the other, as :func:`hostctl.payload.apply.apply` asks for them.

    Args:
        segments: those that will be asked for, in order.
        ranges: where the segments file is read. A broken connection is its business; its errors pass through.
    """

    def __init__(self, segments: Sequence[Segment], ranges: Ranges) -> None:
        self._ranges = ranges
        self._ends = dict(stretches(segments))
        self._stream: Iterator[bytes] = iter(())
        self._rest = b""
        self._position = -1

    def __call__(self, segment: Segment) -> Iterator[bytes]:
        """Yield the stored bytes of ``segment``, fewer when the server has fewer."""
        if segment.stored_offset != self._position:
            end = self._ends.get(segment.stored_offset, segment.stored_end)
            self._stream, self._rest = self._ranges(segment.stored_offset, end), b""
        self._position = segment.stored_end
        left = segment.stored_bytes
        while left:
            piece = self._rest or next(self._stream, b"")
            if not piece:
                return
            self._rest = piece[left:]
            yield piece[:left]
            left -= len(piece[:left])
