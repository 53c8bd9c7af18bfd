"""Descriptions, deltas and offers that are signed, but malformed or dangerous."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.errors import HostctlError
from hostctl.repository.release import (
    Delta,
    DescriptionError,
    Offer,
    Payload,
    Release,
    decode_deltas,
    decode_offer,
    decode_release,
    decode_versions,
    encode_deltas,
    encode_offer,
    encode_release,
    encode_versions,
)
from hostctl.repository.rollout import Rollout

FILE = Payload(bytes=4096, sha256="ef" * 32)
RELEASE = Release(
    name="host",
    version="2",
    architecture="x86-64",
    root_hash="ab" * 32,
    root_bytes=1 << 20,
    salt="cd" * 32,
    uuid="8f4e4a0c-4d61-5d0f-9c64-2a5f6b9f7f11",
    tries=3,
    uki_bytes=1000,
    uki_sha256="12" * 32,
    index=FILE,
    segments=FILE,
    signature=FILE,
)
DELTA = Delta(
    from_version="1",
    from_root_hash="ab" * 32,
    from_uki_sha256="12" * 32,
    index=FILE,
    segments=Payload(bytes=0, sha256="34" * 32),
)
ROLLOUT = Rollout(start=datetime(2026, 11, 26, 3, tzinfo=UTC), hours=36.5, percent=50.0)
OFFER = Offer(name="host", architecture="x86-64", version="2", minimum="1", rollout=ROLLOUT)

NONSENSE = [b"", b"[]", b"{}", b"null", b"[" * 60_000, b'{"a":' * 9_000, b" " * 70_000, b"\xff\xfe", b"NaN"]
DEPTH: object = []
for _ in range(50):
    DEPTH = [DEPTH]


def test_what_is_encoded_is_decoded() -> None:
    assert decode_release(encode_release(RELEASE)) == RELEASE
    assert decode_versions(encode_versions(("1", "2026.11.1"))) == ("1", "2026.11.1")
    assert decode_deltas(encode_deltas((DELTA,))) == (DELTA,)
    assert decode_offer(json.loads(json.dumps(encode_offer(OFFER)))) == OFFER
    everybody = Offer(name="host", architecture="x86-64", version="2")
    assert decode_offer(encode_offer(everybody)) == everybody


def test_a_payload_lies_where_its_content_says() -> None:
    assert FILE.path == f"payloads/ef/{'ef' * 32}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "../2"),
        ("version", "2+0"),
        ("version", "2."),
        ("version", ""),
        ("version", 2),
        ("name", "../../boot"),
        ("name", 'a"b'),
        ("architecture", "arm64"),
        ("architecture", "x86-64\n"),
        ("root_hash", "AB" * 32),
        ("root_hash", "--help"),
        ("root_hash", "ab" * 32 + "\n"),
        ("root_bytes", 4097),
        ("root_bytes", 0),
        ("root_bytes", -4096),
        ("root_bytes", True),
        ("root_bytes", 4096.0),
        ("root_bytes", 1 << 60),
        ("salt", "-"),
        ("uuid", "--no-superblock"),
        ("tries", 0),
        ("tries", 10),
        ("tries", "3"),
        ("uki_bytes", 0),
        ("uki_sha256", "ef"),
        ("index", {"bytes": (1 << 18) + 1, "sha256": "ef" * 32}),
        ("index", {"bytes": 1, "sha256": "../../../etc/passwd"}),
        ("index", {"bytes": 1}),
        ("index", None),
        ("segments", {"bytes": 0, "sha256": "ef" * 32}),
        ("segments", {"bytes": 1 << 40, "sha256": "ef" * 32}),
        ("signature", {"bytes": 1 << 20, "sha256": "ef" * 32}),
        ("signature", DEPTH),
        ("format", 1),
        ("format", 3),
        ("format", True),
        ("format", 2.0),
    ],
)
def test_signed_but_dangerous_release(key: str, value: object) -> None:
    document = {**json.loads(encode_release(RELEASE)), key: value}
    with pytest.raises(DescriptionError):
        decode_release(json.dumps(document).encode())


@pytest.mark.parametrize("missing", sorted(Release.__dataclass_fields__))
def test_nothing_may_be_missing(missing: str) -> None:
    document = json.loads(encode_release(RELEASE))
    del document[missing]
    with pytest.raises(DescriptionError):
        decode_release(json.dumps(document).encode())


def test_what_a_later_publisher_adds_is_passed_over() -> None:
    release = json.loads(encode_release(RELEASE))
    release |= {"later": [1], "index": {**release["index"], "url": "http://elsewhere/"}}
    assert decode_release(json.dumps(release).encode()) == RELEASE
    deltas = json.loads(encode_deltas((DELTA,)))
    deltas["later"] = deltas["deltas"][0]["later"] = {"deep": None}
    assert decode_deltas(json.dumps(deltas).encode()) == (DELTA,)
    versions = {**json.loads(encode_versions(("1",))), "later": True}
    assert decode_versions(json.dumps(versions).encode()) == ("1",)
    assert decode_offer({**encode_offer(OFFER), "later": "x"}) == OFFER


def test_a_key_that_is_there_twice_has_no_meaning() -> None:
    twice = encode_release(RELEASE)[:-1] + b',"version":"3"}'
    assert json.loads(twice)["version"] == "3"
    with pytest.raises(DescriptionError, match="malformed"):
        decode_release(twice)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("from_version", "../1"),
        ("from_root_hash", "ab"),
        ("from_uki_sha256", None),
        ("index", {"bytes": 0, "sha256": "ef" * 32}),
        ("index", {"bytes": 1 << 30, "sha256": "ef" * 32}),
        ("segments", {"bytes": -1, "sha256": "ef" * 32}),
    ],
)
def test_signed_but_dangerous_delta(key: str, value: object) -> None:
    document = json.loads(encode_deltas((DELTA,)))
    document["deltas"][0][key] = value
    with pytest.raises(DescriptionError):
        decode_deltas(json.dumps(document).encode())


@pytest.mark.parametrize("deltas", [(DELTA, DELTA), (DELTA,) * 65])
def test_deltas_that_are_ambiguous_or_too_many(deltas: tuple[Delta, ...]) -> None:
    with pytest.raises(DescriptionError):
        decode_deltas(encode_deltas(deltas))


@pytest.mark.parametrize("versions", [("1", "1"), ("../x",), ("1+2",), tuple(map(str, range(1001)))])
def test_dangerous_list(versions: tuple[str, ...]) -> None:
    with pytest.raises(DescriptionError):
        decode_versions(encode_versions(versions))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "../x"),
        (("version",), "1+3"),
        (("minimum",), "-1"),
        (("minimum",), False),
        (("architecture",), "arm64"),
        (("rollout",), []),
        (("rollout",), {}),
        (("rollout", "start"), "2026-11-26"),
        (("rollout", "start"), "2026-11-26T03:00:00+00:00"),
        (("rollout", "start"), "2026-13-26T03:00:00Z"),
        (("rollout", "start"), "٢٠٢٦-11-26T03:00:00Z"),
        (("rollout", "start"), 0),
        (("rollout", "hours"), "-1"),
        (("rollout", "hours"), 1),
        (("rollout", "hours"), 1.5),
        (("rollout", "hours"), "1e3"),
        (("rollout", "hours"), "nan"),
        (("rollout", "hours"), "inf"),
        (("rollout", "hours"), "9" * 4000),
        (("rollout", "hours"), "8761"),
        (("rollout", "hours"), "\u0661"),
        (("rollout", "percent"), "101"),
        (("rollout", "percent"), "100.000001"),
        (("rollout", "percent"), "010"),
        (("rollout", "percent"), " 10"),
        (("rollout", "percent"), True),
        (("rollout", "extra"), 1),
    ],
)
def test_signed_but_dangerous_offer(path: tuple[str, ...], value: object) -> None:
    custom = encode_offer(OFFER)
    inner = custom
    for key in path[:-1]:
        found = inner[key]
        assert isinstance(found, dict)
        inner = found
    inner[path[-1]] = value
    with pytest.raises(DescriptionError):
        decode_offer(custom)


@pytest.mark.parametrize("custom", [None, [], "offer", 1, {}, DEPTH])
def test_custom_that_is_no_offer(custom: object) -> None:
    with pytest.raises(DescriptionError):
        decode_offer(custom)


@pytest.mark.parametrize("decode", [decode_release, decode_versions, decode_deltas])
@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(DescriptionError):
        decode(data)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(repr).map(str.encode))
def test_arbitrary_bytes_are_refused_by_one_error(data: bytes) -> None:
    for decode in (decode_release, decode_versions, decode_deltas):
        with pytest.raises(HostctlError):
            decode(data)


@given(st.integers(0, len(encode_release(RELEASE)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_a_release(place: int, change: int) -> None:
    data = bytearray(encode_release(RELEASE))
    data[place] ^= change
    try:
        decoded = decode_release(bytes(data))
    except DescriptionError:
        return
    assert encode_release(decoded) == bytes(data)
