"""A payload that lies about its sizes, sources or content harms nobody: it ends in an error, in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.payload import difference
from hostctl.payload.apply import (
    ReferenceReadError,
    SegmentResultError,
    StoredBytesError,
    TargetError,
    apply,
)
from hostctl.payload.frame import FrameError, decompress
from hostctl.payload.index import (
    MAX_DECODED,
    MAX_ENCODED,
    MAX_RANGES,
    MAX_REFERENCE,
    MAX_SEGMENT,
    Index,
    PayloadIndexError,
    Reference,
    Segment,
    decode_index,
)

HASH = "0" * 64
Json = dict[str, object]


def row(method: str = "zstd", length: object = 5, ranges: object = None, stored: object = 20) -> list[object]:
    empty = method == "copy"
    return [method, length, HASH, 0 if empty else stored, "" if empty else HASH, [] if ranges is None else ranges]


def document(root: object = None, uki: object = None, references: object = None, **more: object) -> Json:
    return {
        "format": 1,
        "references": {} if references is None else references,
        "root": {"bytes": 5, "segments": [row()]} if root is None else root,
        "uki": {"bytes": 5, "segments": [row()]} if uki is None else uki,
        **more,
    }


def encoded(value: object) -> bytes:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return zstandard.ZstdCompressor().compress(plain)


def one(method: str, ranges: list[int]) -> Json:
    return document({"bytes": 5, "segments": [row(method, ranges=ranges)]}, references={"old-root": 100})


def test_the_pattern_of_these_tests_is_in_order() -> None:
    assert decode_index(encoded(document())).stored_bytes == 40
    assert decode_index(encoded(one("copy", ranges=[0, 95, 5]))).references == {Reference.OLD_ROOT: 100}


WRONG: dict[str, object] = {
    "no record": [1],
    "another format": document(format=2),
    "format is true": document(format=True),
    "a key too many": document(more=1),
    "no root": {key: value for key, value in document().items() if key != "root"},
    "output is empty": document({"bytes": 0, "segments": []}),
    "output is negative": document({"bytes": -5, "segments": [row()]}),
    "output is huge": document({"bytes": 1 << 62, "segments": [row(length=1 << 62)]}),
    "segments make less": document({"bytes": 6, "segments": [row()]}),
    "segments make more": document({"bytes": 5, "segments": [row(), row()]}),
    "segment too long": document({"bytes": MAX_SEGMENT + 1, "segments": [row(length=MAX_SEGMENT + 1)]}),
    "length is a fraction": document({"bytes": 5, "segments": [row(length=5.0)]}),
    "length is true": document({"bytes": 1, "segments": [row(length=True)]}),
    "stored is larger than what it makes": document({"bytes": 5, "segments": [row(stored=10000)]}),
    "nothing stored": document({"bytes": 5, "segments": [row(stored=0)]}),
    "unknown method": document({"bytes": 5, "segments": [row("exec")]}),
    "hash in capitals": document({"bytes": 5, "segments": [["zstd", 5, "A" * 64, 20, HASH, []]]}),
    "hash of a copy's stored bytes": document(
        {"bytes": 5, "segments": [["copy", 5, HASH, 0, HASH, [0, 0, 5]]]}, references={"old-root": 100}
    ),
    "copy of nothing": document({"bytes": 5, "segments": [row("copy")]}),
    "copy of more": one("copy", ranges=[0, 0, 6]),
    "add to nothing": document({"bytes": 5, "segments": [row("add")]}),
    "range beyond the end": one("copy", ranges=[0, 96, 5]),
    "range before the beginning": one("copy", ranges=[0, -1, 5]),
    "range of nothing": one("zstd", ranges=[0, 1, 0]),
    "range with a length that wraps": one("zstd", ranges=[0, 1, (1 << 64) + 5]),
    "range of an unknown source": one("copy", ranges=[9, 0, 5]),
    "range of an undeclared source": one("copy", ranges=[1, 0, 5]),
    "the new root for the root": one("copy", ranges=[2, 0, 5]),
    "ranges that are no triples": one("copy", ranges=[0, 0]),
    "too many ranges": one("zstd", ranges=[0, 0, 1] * (MAX_RANGES + 1)),
    "a reference nobody uses": document(references={"old-root": 5}),
    "the new root as a declared reference": document(references={"new-root": 5}),
    "an unknown reference": document(references={"old-var": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_index_that_asks_for_what_no_index_may_is_refused(name: str) -> None:
    with pytest.raises(PayloadIndexError):
        decode_index(encoded(WRONG[name]))


def test_a_reference_larger_than_memory_allows_is_refused() -> None:
    large = MAX_REFERENCE // 2 + 1
    root = {"bytes": 5, "segments": [row(ranges=[0, 0, large, 0, 0, large])]}
    with pytest.raises(PayloadIndexError, match="more than"):
        decode_index(encoded(document(root, references={"old-root": large})))


def test_an_index_in_another_writing_is_refused() -> None:
    plain = json.dumps(document(), sort_keys=True, separators=(",", ":")).encode()
    twice = plain.replace(b'"format":1', b'"format":1,"format":1')
    for other in (json.dumps(document()).encode(), plain + b" ", twice):
        with pytest.raises(PayloadIndexError):
            decode_index(zstandard.ZstdCompressor().compress(other))


def lying(content: int) -> bytes:
    """Return a frame with one small block that claims to hold ``content`` bytes (RFC 8878, 3.1.1.1)."""
    return struct.pack("<IBQ", 0xFD2FB528, 0xE0, content) + bytes([1 | 8 << 3, 0, 0]) + b"smaller!"


@pytest.mark.parametrize("content", [MAX_DECODED + 1, 1 << 40, (1 << 63) - 1])
def test_a_frame_that_claims_to_be_huge_is_refused_by_its_head(content: int) -> None:
    with pytest.raises(PayloadIndexError):
        decode_index(lying(content))


def test_frames_with_something_missing_added_or_unsaid_are_refused() -> None:
    good = zstandard.ZstdCompressor().compress(b"12345")
    assert decompress(good, 5, 5) == b"12345"
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(b"12345")
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"hide"
    for frame in (good[:-1], good + b"x", good + good, good + skippable, unsaid, skippable + good, b"", lying(5)):
        with pytest.raises(FrameError):
            decompress(frame, 5, 5)


def test_a_long_index_is_refused_unread() -> None:
    with pytest.raises(PayloadIndexError):
        decode_index(bytes(MAX_ENCODED + 1))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_noise_is_no_index(data: bytes) -> None:
    with pytest.raises(PayloadIndexError):
        decode_index(zstandard.ZstdCompressor().compress(data))
    with pytest.raises(PayloadIndexError):
        decode_index(data)


@settings(max_examples=200, deadline=None)
@given(
    place=st.integers(0, 5),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=4)),
)
def test_a_changed_field_is_refused_or_stays_in_bounds(place: int, value: object) -> None:
    changed = row("zstd", ranges=[0, 0, 7])
    changed[place] = value
    try:
        index = decode_index(encoded(document({"bytes": 5, "segments": [changed]}, references={"old-root": 100})))
    except PayloadIndexError:
        return
    for segment in index:
        assert segment.length == 5
        assert all(part.offset >= 0 and part.offset + part.length <= 100 for part in segment.ranges)


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(-60, 60)), max_size=5),
    rest=st.binary(max_size=90),
    cut=st.integers(0, 120),
)
def test_a_difference_makes_the_right_length_or_an_error(
    steps: list[tuple[int, int, int]], rest: bytes, cut: int
) -> None:
    packed = difference.pack(steps, rest, b"")[:cut]
    try:
        made = difference.apply(packed, bytearray(30), 50)
    except difference.DifferenceError:
        return
    assert len(made) == 50


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", difference.MAX_STEPS + 1) + bytes(12 * (difference.MAX_STEPS + 1)),
        difference.pack([(0xFFFFFFFF, 0xFFFFFFFF, 0)], b"", b""),
        difference.pack([(5, 0, -6), (5, 0, 0)], bytes(10), b""),
        difference.pack([(5, 0, 30), (5, 0, 0)], bytes(10), b""),
        difference.pack([(10, 0, 0)], bytes(10), b"more"),
    ],
)
def test_a_difference_that_points_outside_is_refused(packed: bytes) -> None:
    with pytest.raises(difference.DifferenceError):
        difference.apply(packed, bytearray(20), 10)


# --- applying -----------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def payload(result: bytes, stored: bytes, method: str = "zstd", ranges: list[int] | None = None) -> Index:
    rows = [[method, len(result), sha256(result), len(stored), sha256(stored) if stored else "", ranges or []]]
    references = {"old-root": 100} if ranges else {}
    return decode_index(encoded(document({"bytes": len(result), "segments": rows}, references=references)))


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "slot", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def attempt(index: Index, stored: Callable[[Segment], Iterator[bytes]], slot: int, old: int | None = None) -> list[int]:
    made: list[int] = []
    references = {} if old is None else {Reference.OLD_ROOT: old}
    apply(index, "root", index.segments("root"), stored, references, slot, lambda _, total: made.append(total))
    return made


def frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_stored_bytes_are_checked_before_they_are_decompressed(slot: int) -> None:
    index = payload(b"hello", frame(b"hello"))
    other = frame(b"world")
    assert len(other) == index.stored_bytes - 20
    for sent in (other, frame(b"hello")[:-1], frame(b"hello") + b"x"):
        with pytest.raises(StoredBytesError):
            attempt(index, lambda _, sent=sent: iter([sent]), slot)  # type: ignore[misc]
    assert os.fstat(slot).st_size == 0


def test_an_endless_transfer_is_cut_off(slot: int) -> None:
    sent = 0

    def endless(_: Segment) -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 10
            yield bytes(10)

    with pytest.raises(StoredBytesError):
        attempt(payload(b"hello", frame(b"hello")), endless, slot)
    assert sent < 100


def test_a_result_other_than_the_index_names_is_never_written(slot: int) -> None:
    lie = payload(b"hello", frame(b"world"))
    for index in (lie, payload(b"hello", b"no frame at all"), payload(b"hello", frame(b"longer than it"))):
        stored = {sha256(data): data for data in (frame(b"world"), b"no frame at all", frame(b"longer than it"))}
        with pytest.raises(SegmentResultError):
            attempt(index, lambda segment, stored=stored: iter([stored[segment.stored_sha256]]), slot)  # type: ignore[misc]
    assert os.fstat(slot).st_size == 0


def test_a_copy_of_another_release_is_found_out(slot: int, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(100))
    index = payload(b"hello", b"", "copy", [0, 10, 5])
    old = os.open(tmp_path / "old", os.O_RDONLY)
    reported: list[int] = []
    with pytest.raises(SegmentResultError):
        reported = attempt(index, lambda _: iter(()), slot, old)
    assert reported == []
    os.close(old)


def test_a_reference_that_is_short_missing_or_unreadable_is_an_error_of_its_own(slot: int, tmp_path: Path) -> None:
    index = payload(b"hello", b"", "copy", [0, 10, 5])
    (tmp_path / "old").write_bytes(bytes(12))
    short, unreadable = os.open(tmp_path / "old", os.O_RDONLY), os.open(tmp_path / "old", os.O_WRONLY)
    for old in (None, short, unreadable):
        with pytest.raises(ReferenceReadError):
            attempt(index, lambda _: iter(()), slot, old)
    os.close(short)
    os.close(unreadable)


def test_a_target_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "slot").write_bytes(b"")
    read_only = os.open(tmp_path / "slot", os.O_RDONLY)
    with pytest.raises(TargetError):
        attempt(payload(b"hello", frame(b"hello")), lambda _: iter([frame(b"hello")]), read_only)
    os.close(read_only)


def test_segments_of_another_payload_are_refused(slot: int) -> None:
    one_payload, other = payload(b"hello", frame(b"hello")), payload(b"world", frame(b"world"))
    with pytest.raises(ValueError, match="none of root"):
        apply(one_payload, "root", other.segments("root"), lambda _: iter(()), {}, slot, lambda _, __: None)
