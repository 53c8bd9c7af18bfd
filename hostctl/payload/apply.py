"""Makes the outputs of a payload on a host: segment by segment, checked before and after, with bounded memory.

Stored bytes are hashed before they are decompressed, results after, both against the index. Each segment is written
at its offset as soon as it is right, so whatever was cut off goes on with :func:`missing`. The caller opens, flushes
and closes; descriptors may be those of partitions or of files that stand in for them. What the next segment refers to
is read by the kernel while one is made and written, so a delta does not wait for the old release.

Memory, besides the process itself: at most ``2 * MAX_REFERENCE`` while a dictionary is read, then one of it, one
segment and its stored bytes. With segments of 4 MiB it stays below 20 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest

from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.payload import difference
from hostctl.payload.frame import FrameError, decompress, raw_dictionary
from hostctl.payload.index import Index, Method, Range, Reference, Segment

AHEAD = 128 << 10
"""Bytes of one wish to the kernel (posix_fadvise(2)), which fulfils no more of it than its window of read-ahead."""
References = Mapping[Reference, int]
"""Descriptors to read references from."""
Stored = Callable[[Segment], Iterable[bytes]]
"""Returns the stored bytes of a segment, in pieces of any size."""
Report = Callable[[Segment, int], None]


class StoredBytesError(HostctlError):
    """The stored bytes of a segment are not those that the index names: the transfer or the server is at fault."""

    id = "payload-stored"


class SegmentResultError(HostctlError):
    """Right stored bytes make a wrong result: the payload does not belong to the release that runs."""

    id = "payload-result"


class ReferenceReadError(HostctlError):
    """The release that runs, or the new root, cannot be read where a segment refers to it."""

    id = "payload-reference"


class TargetError(HostctlError):
    """The place that an output is written to cannot be read or written."""

    id = "payload-target"


def missing(index: Index, output: str, target: int) -> tuple[Segment, ...]:
    """Return the segments of an output that its target does not hold yet.

    Args:
        index: the payload.
        output: which of its outputs.
        target: a readable descriptor; what it lacks at its end counts as missing.

    Raises:
        TargetError: it cannot be read.
    """
    return tuple(segment for segment in index.segments(output) if not _holds(target, segment))


def _holds(target: int, segment: Segment) -> bool:
    digest = hashlib.sha256()
    end = segment.offset + segment.length
    try:
        for start in range(segment.offset, end, CHUNK):
            digest.update(os.pread(target, min(CHUNK, end - start), start))
    except OSError as error:
        raise TargetError(f"the {segment.output} that is written to cannot be read", details=str(error)) from error
    return digest.hexdigest() == segment.sha256


def apply(
    index: Index,
    output: str,
    segments: Sequence[Segment],
    stored: Stored,
    references: References,
    target: int,
    report: Report,
) -> None:
    """Make segments of an output and write each at its offset. Nothing is flushed.

    Args:
        index: the payload.
        output: which of its outputs.
        segments: which of its segments, for example those that are :func:`missing`; in any order.
        stored: gives the stored bytes of a segment; called once for each that has some, in the order of ``segments``.
        references: a descriptor for everything that the segments refer to. For segments of ``uki`` the new root is
            one of them, and must be complete.
        target: a writable descriptor.
        report: called when a segment is written, with the bytes of output that this call has made so far.

    Raises:
        StoredBytesError: stored bytes are not as the index says; other bytes may be loaded and tried.
        SegmentResultError: the result is not as the index says; the payload is of no use here.
        ReferenceReadError: a reference is not given, too short, or cannot be read.
        TargetError: the output cannot be written.
    """
    known = set(index.segments(output))
    made = 0
    for segment, following in zip_longest(segments, segments[1:]):
        if segment not in known:
            raise ValueError(f"a segment at {segment.offset} is none of {output}")
        if following is not None:
            _announce(following, references)
        if segment.method is Method.COPY:
            _copy(segment, references, target)
        else:
            _write(target, segment.offset, _checked(segment, _result(segment, stored, references)))
        made += segment.length
        report(segment, made)


def _result(segment: Segment, stored: Stored, references: References) -> bytes | bytearray:
    try:
        if segment.method is Method.ADD:
            packed = _stored_bytes(segment, stored)
            low, high = segment.length + difference.COUNT.size, segment.length + difference.MAX_OVERHEAD
            return difference.apply(decompress(packed, low, high), _read(segment, references), segment.length)
        dictionary = raw_dictionary(_read(segment, references)) if segment.ranges else None
        return decompress(_stored_bytes(segment, stored), segment.length, segment.length, dictionary)
    except (FrameError, difference.DifferenceError) as error:
        raise SegmentResultError(f"{_title(segment)} cannot be made", details=str(error)) from error


def _title(segment: Segment) -> str:
    return f"the segment at byte {segment.offset} of the new {segment.output}"


def _stored_bytes(segment: Segment, stored: Stored) -> bytearray:
    """Return the stored bytes of a segment, never holding more of them than there should be."""
    data = bytearray()
    for piece in stored(segment):
        if len(data) + len(piece) > segment.stored_bytes:
            raise StoredBytesError(f"{_title(segment)} was sent with more than {segment.stored_bytes} bytes")
        data += piece
    if len(data) != segment.stored_bytes:
        raise StoredBytesError(f"{_title(segment)} was sent with {len(data)} bytes instead of {segment.stored_bytes}")
    if hashlib.sha256(data).hexdigest() != segment.stored_sha256:
        raise StoredBytesError(f"{_title(segment)} was sent with other bytes than the index names")
    return data


def _checked(segment: Segment, result: bytes | bytearray) -> bytes | bytearray:
    if hashlib.sha256(result).hexdigest() != segment.sha256:
        raise SegmentResultError(f"{_title(segment)} came out wrong", details=f"made by {segment.method}")
    return result


def _descriptor(part: Range, references: References) -> int:
    if part.source not in references:
        raise ReferenceReadError(f"this payload needs {part.source}")
    return references[part.source]


def _fill(view: memoryview, part: Range, start: int, references: References) -> None:
    """Read bytes of a range's source from ``start`` on until ``view`` is full."""
    descriptor = _descriptor(part, references)
    place = 0
    while place < len(view):
        try:
            count = os.preadv(descriptor, [view[place:]], start + place)
        except OSError as error:
            raise ReferenceReadError(f"{part.source} cannot be read at byte {start}", details=str(error)) from error
        if count == 0:
            raise ReferenceReadError(f"{part.source} ends before byte {start + len(view)}")
        place += count


def _read(segment: Segment, references: References) -> bytearray:
    data = bytearray(segment.reference_bytes)
    place = 0
    with memoryview(data) as view:
        for part in segment.ranges:
            _fill(view[place : place + part.length], part, part.offset, references)
            place += part.length
    return data


def _copy(segment: Segment, references: References, target: int) -> None:
    """Copy without ever holding the whole. What is wrong is seen at its end, before it is reported as made."""
    digest = hashlib.sha256()
    place = segment.offset
    buffer = memoryview(bytearray(CHUNK))
    for part in segment.ranges:
        end = part.offset + part.length
        for start in range(part.offset, end, CHUNK):
            piece = buffer[: min(CHUNK, end - start)]
            _fill(piece, part, start, references)
            digest.update(piece)
            _write(target, place, piece)
            place += len(piece)
    if digest.hexdigest() != segment.sha256:
        raise SegmentResultError(f"{_title(segment)} came out wrong", details="made by copying")


def _announce(segment: Segment, references: References) -> None:
    """Have the kernel read what a segment refers to while the one before it is made and written."""
    for part in segment.ranges:
        descriptor = references.get(part.source)
        if descriptor is None:
            continue
        for start in range(part.offset, part.offset + part.length, AHEAD):
            with suppress(OSError):  # it is only a wish; reading says what is wrong
                os.posix_fadvise(descriptor, start, AHEAD, os.POSIX_FADV_WILLNEED)


def _write(target: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(target, view, offset)
            view = view[written:]
            offset += written
    except OSError as error:
        raise TargetError(f"the output cannot be written at byte {offset}", details=str(error)) from error
