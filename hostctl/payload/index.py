"""The index of a payload: which segments its outputs are cut into, and how each is made. Pure.

A payload is two files, this index and the *segments file* with the stored bytes. It makes two outputs, ``root`` (the
EROFS image of a slot) and ``uki`` (the signed boot image). Every output is a row of segments, one after the other and
without gaps, each made by itself:

- ``copy``: the bytes of its reference ranges, one after the other; nothing is stored;
- ``zstd``: one frame, compressed against the bytes of its reference ranges as a dictionary, or against nothing;
- ``add``: one frame with a difference to the bytes of its reference ranges, see :mod:`hostctl.payload.difference`.

Ranges point into the release that runs (``old-root``, ``old-uki``) and, for the boot image, into the root that was
made before it (``new-root``). A payload without ranges is a *full* payload, one with ranges a *delta*: one format, one
way to apply. Stored bytes lie in the segments file in the order of the index, root first, without gaps.

On the wire an index is canonical JSON in one zstd frame. Both hashes of a segment are in it, so whoever trusts the
index (it is named by a signed description) trusts nothing else. Decoding is strict: what is not exactly as
:func:`encode_index` writes it is refused, and every number is bounded before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import zstandard

from hostctl.errors import HostctlError
from hostctl.payload.frame import FrameError, decompress

FORMAT = 1
SEGMENT = 4 << 20
"""Bytes of output that a segment has, when nobody says otherwise."""
MAX_SEGMENT = 8 << 20
MAX_REFERENCE = 8 << 20
"""Bytes that the ranges of a ``zstd`` or ``add`` segment have together: what applying must hold in memory."""
MAX_RANGES = 512
MAX_DECODED = 256 << 10
"""Bytes of an index as JSON; it bounds the number of segments and ranges as well."""
MAX_ENCODED = 256 << 10
MAX_OUTPUT = 1 << 36
OUTPUTS = ("root", "uki")

_HASH = re.compile(r"[0-9a-f]{64}")
_SEGMENT_KEYS = 6


class PayloadIndexError(HostctlError):
    """An index is not well formed, or asks for something that no index may ask for."""

    id = "payload-index"


class Reference(StrEnum):
    """What a range points into."""

    OLD_ROOT = "old-root"
    OLD_UKI = "old-uki"
    NEW_ROOT = "new-root"


class Method(StrEnum):
    """How a segment is made."""

    COPY = "copy"
    ZSTD = "zstd"
    ADD = "add"


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Bytes of a reference."""

    source: Reference
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of an output that is made, checked and resumed by itself."""

    output: str
    offset: int
    length: int
    sha256: str
    """Of the output's bytes, hexadecimal."""
    method: Method
    ranges: tuple[Range, ...] = ()
    stored_offset: int = 0
    """Where its stored bytes begin in the segments file."""
    stored_bytes: int = 0
    stored_sha256: str = ""
    """Of the stored bytes; empty for a copy, which has none."""

    @property
    def stored_end(self) -> int:
        """Return where its stored bytes end in the segments file."""
        return self.stored_offset + self.stored_bytes

    @property
    def reference_bytes(self) -> int:
        """Return how many bytes its ranges have together."""
        return sum(part.length for part in self.ranges)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One file or partition that a payload makes."""

    bytes: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A whole index."""

    outputs: Mapping[str, Output]
    """By name; exactly :data:`OUTPUTS`."""
    references: Mapping[Reference, int]
    """What applying needs of the release that runs, with the bytes that each has; empty for a full payload."""

    def segments(self, output: str) -> tuple[Segment, ...]:
        """Return the segments of an output, in order."""
        return self.outputs[output].segments

    @property
    def stored_bytes(self) -> int:
        """Return the size of the segments file."""
        return sum(segment.stored_bytes for segment in self)

    @property
    def is_delta(self) -> bool:
        """Tell whether applying needs the release that runs."""
        return bool(self.references)

    def __iter__(self) -> Iterator[Segment]:
        """Go through all segments in the order in which they are made and stored."""
        for name in OUTPUTS:
            yield from self.outputs[name].segments


def stored_limit(length: int) -> int:
    """Return the most bytes that a segment of ``length`` may have stored: a little more than not compressing at all."""
    return length + (length >> 6) + 4096


def _row(segment: Segment) -> list[object]:
    sources = list(Reference)
    ranges = [number for part in segment.ranges for number in (sources.index(part.source), part.offset, part.length)]
    stored = [segment.stored_bytes, segment.stored_sha256]
    return [str(segment.method), segment.length, segment.sha256, *stored, ranges]


def _plain(index: Index) -> bytes:
    document: dict[str, object] = {
        "format": FORMAT,
        "references": {str(name): size for name, size in index.references.items()},
    }
    for name, output in index.outputs.items():
        document[name] = {"bytes": output.bytes, "segments": [_row(segment) for segment in output.segments]}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def encode_index(index: Index) -> bytes:
    """Return the index as it is published. The same index gives the same bytes with the same zstd library.

    Raises:
        PayloadIndexError: :func:`decode_index` would not accept it, or would read something else.
    """
    compressor = zstandard.ZstdCompressor(level=19, write_checksum=False, write_content_size=True)
    data = compressor.compress(_plain(index))
    if decode_index(data) != index:
        raise PayloadIndexError("an index does not say where its segments are")
    return data


def decode_index(data: bytes) -> Index:
    """Read an index.

    Args:
        data: the whole file.

    Raises:
        PayloadIndexError: it is too long, malformed, or not in order.
    """
    try:
        return _decode(data)
    except (FrameError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise PayloadIndexError(
            f"the index of a payload is not in order: {error}", hint="publish the release anew with `hostctl publish`"
        ) from error


def _decode(data: bytes) -> Index:
    if len(data) > MAX_ENCODED:
        raise ValueError(f"longer than {MAX_ENCODED} bytes")
    plain = decompress(data, 2, MAX_DECODED)
    document = _keys(json.loads(plain), {"format", "references", *OUTPUTS})
    _count(document["format"], FORMAT, FORMAT)
    references = _references(document["references"])
    records = {name: _keys(document[name], {"bytes", "segments"}) for name in OUTPUTS}
    sizes = {name: _count(records[name]["bytes"], 1, MAX_OUTPUT) for name in OUTPUTS}
    known = {"root": references, "uki": {**references, Reference.NEW_ROOT: sizes["root"]}}
    outputs: dict[str, Output] = {}
    stored = 0
    for name in OUTPUTS:
        segments = _segments(name, _list(records[name]["segments"]), sizes[name], stored, known[name])
        outputs[name] = Output(bytes=sizes[name], segments=segments)
        stored = segments[-1].stored_end
    index = Index(outputs=outputs, references=references)
    used = {part.source for segment in index for part in segment.ranges} - {Reference.NEW_ROOT}
    if used != set(references):
        raise ValueError("references that are named and those that are used differ")
    if _plain(index) != plain:
        raise ValueError("it is written in another way than it should be")
    return index


def _keys(value: object, keys: set[str]) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != keys:
        raise ValueError(f"not a record of {', '.join(sorted(keys))}")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _count(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"a number is not one of {low} to {high}")
    return value


def _hash(value: object) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError("not a SHA-256")
    return value


def _references(value: object) -> dict[Reference, int]:
    if not isinstance(value, dict):
        raise TypeError("references are no record")
    found = {Reference(name): _count(size, 1, MAX_OUTPUT) for name, size in value.items()}
    if Reference.NEW_ROOT in found:
        raise ValueError("the new root is no reference to begin with")
    return found


def _segments(
    output: str, rows: Sequence[object], size: int, stored: int, known: Mapping[Reference, int]
) -> tuple[Segment, ...]:
    segments = []
    offset = 0
    for row in rows:
        segment = _segment(output, _list(row), offset, stored, known)
        segments.append(segment)
        offset += segment.length
        stored = segment.stored_end
    if offset != size:
        raise ValueError(f"the segments of {output} make {offset} bytes, not {size}")
    return tuple(segments)


def _segment(output: str, row: Sequence[object], offset: int, stored: int, known: Mapping[Reference, int]) -> Segment:
    if len(row) != _SEGMENT_KEYS:
        raise ValueError("a segment is no row of six")
    length = _count(row[1], 1, MAX_SEGMENT)
    segment = Segment(
        output=output,
        offset=offset,
        length=length,
        sha256=_hash(row[2]),
        method=Method(str(row[0])),
        ranges=_ranges(_list(row[5]), known),
        stored_offset=stored,
        stored_bytes=_count(row[3], 0, stored_limit(length)),
        stored_sha256=_hash(row[4]) if row[4] != "" else "",
    )
    _CHECKS[segment.method](segment)
    return segment


def _ranges(numbers: Sequence[object], known: Mapping[Reference, int]) -> tuple[Range, ...]:
    if len(numbers) % 3 or len(numbers) > 3 * MAX_RANGES:
        raise ValueError(f"ranges are no triples, or more than {MAX_RANGES}")
    sources = list(Reference)
    found = []
    for place in range(0, len(numbers), 3):
        source = sources[_count(numbers[place], 0, len(sources) - 1)]
        if source not in known:
            raise ValueError(f"{source} is not known here")
        offset = _count(numbers[place + 1], 0, known[source] - 1)
        found.append(Range(source=source, offset=offset, length=_count(numbers[place + 2], 1, known[source] - offset)))
    return tuple(found)


def _check_copy(segment: Segment) -> None:
    if segment.stored_bytes or segment.stored_sha256:
        raise ValueError("a copy has stored bytes")
    if segment.reference_bytes != segment.length:
        raise ValueError("a copy has another length than its ranges")


def _check_stored(segment: Segment) -> None:
    if not segment.stored_bytes or not segment.stored_sha256:
        raise ValueError("a segment has no stored bytes")
    if segment.reference_bytes > MAX_REFERENCE:
        raise ValueError(f"the ranges of a segment have more than {MAX_REFERENCE} bytes")


def _check_add(segment: Segment) -> None:
    _check_stored(segment)
    if not segment.ranges:
        raise ValueError("a difference has nothing to differ from")


_CHECKS: Mapping[Method, Callable[[Segment], None]] = {
    Method.COPY: _check_copy,
    Method.ZSTD: _check_stored,
    Method.ADD: _check_add,
}
