"""Streams of gzip: what Python's own reader takes is taken, what it refuses is refused."""

import gzip
import io
import random
import zlib

import pytest

from hostctl.image.layers import unpacked

CHANCE = random.Random(5)  # noqa: S311 - the same every time, no secret
NOISE = CHANCE.randbytes(300_000)
ZEROS = bytes(3 << 20)
PLAIN = gzip.compress(b"plain")


def read(data: bytes, size: int) -> bytes:
    """Return what a stream unpacks to, read in parts of ``size``."""
    source = unpacked(io.BytesIO(data), "gzip")
    parts = []
    while part := source.read(size):
        assert len(part) <= size
        parts.append(part)
    assert source.read(size) == b""
    return b"".join(parts)


def named(data: bytes) -> bytes:
    """Return a stream whose header has a name, a comment and an extra field."""
    return PLAIN[:3] + b"\x1c" + PLAIN[4:10] + b"\x04\0abcd" + b"name\0" + b"comment\0" + data[10:]


MEMBERS = {
    "nothing": b"",
    "plain": PLAIN,
    "named": named(PLAIN),
    "empty": gzip.compress(b""),
    "three": PLAIN * 3,
    "padded": PLAIN + bytes(40_000) + PLAIN + bytes(40_000),
    "empty-first": gzip.compress(b"") * 50 + PLAIN,
    "tiny": b"".join(gzip.compress(bytes([at % 256])) for at in range(2000)),
}
LARGE = gzip.compress(NOISE, 1) + gzip.compress(ZEROS) + gzip.compress(NOISE[:7])


@pytest.mark.parametrize("size", [1, 512, 70_000, 1 << 20])
@pytest.mark.parametrize("data", MEMBERS.values(), ids=MEMBERS)
def test_members_follow_each_other(data: bytes, size: int) -> None:
    assert read(data, size) == gzip.decompress(data)


@pytest.mark.parametrize("size", [512, 70_000, 1 << 20])
def test_large_members_follow_each_other(size: int) -> None:
    assert read(LARGE, size) == gzip.decompress(LARGE)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:-1],
        PLAIN[:5],
        PLAIN + PLAIN[:15],
        PLAIN + b"garbage",
        PLAIN + bytes(20) + b"x",
        b"garbage",
        b"\0" + PLAIN,
        PLAIN[:-6] + b"\0\0" + PLAIN[-4:],
        PLAIN[:-1] + b"\1",
        gzip.compress(NOISE)[:-8],
    ],
    ids=["cut", "head", "second-cut", "garbage", "after-zeros", "none", "zero-first", "sum", "length", "no-trailer"],
)
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.GzipFile(fileobj=io.BytesIO(data)).read()
    with pytest.raises((OSError, EOFError, zlib.error)):
        read(data, 512)
