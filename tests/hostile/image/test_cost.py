"""What a small layer may cost: time by the processor's clock, with a wide margin, and memory at its peak."""

import gzip
import io
import itertools
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from hostctl.image import tarstream
from hostctl.image.layers import unpacked
from hostctl.image.tarstream import LayerError, rewrite

SECONDS = 5.0
"""Twenty times what any of these takes on an idle machine."""
MIB = 1 << 20


def header(kind: bytes, body: bytes) -> bytes:
    """Return an extended header."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def entry(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return an empty entry."""
    info = tarfile.TarInfo(name)
    info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def refused(stream: bytes, says: str) -> None:
    """Look that a stream is refused, and soon."""
    started = time.process_time()
    with pytest.raises(LayerError, match=says):
        rewrite(io.BytesIO(stream + bytes(1024)), lambda _: None)
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_extended_header_of_tiny_records_is_refused_at_once(kind: bytes) -> None:
    refused(header(kind, b"6 a=b\n" * (MIB // 6)) + entry("f"), "more than 256 records")


def test_few_records_in_many_headers_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarstream, "ENTRIES", 100)
    stream = b"".join(header(tarfile.XHDTYPE, b"6 a=b\n" * 200) + entry(f"f{at}") for at in range(5))
    refused(stream, "more than 800 records")


def test_a_long_value_is_passed_over_once() -> None:
    value = b"a" * (MIB - 100)
    body = b"%d SCHILY.xattr.user.x=%s\n" % (len(value) + 28, value)
    body = body.replace(str(len(value) + 28).encode(), str(len(body)).encode(), 1)
    stream = (header(tarfile.XHDTYPE, body) + entry("f")) * 20
    started = time.process_time()
    assert rewrite(io.BytesIO(stream + bytes(1024)), lambda _: None) == 20
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_without_an_entry_come_to_an_end(kind: bytes) -> None:
    taken = b"".join(header(kind, b"6 a=b\n") for _ in range(8))
    assert rewrite(io.BytesIO((taken + entry("f")) * 3 + bytes(1024)), lambda _: None) == 3
    refused(taken + header(kind, b"6 a=b\n") + entry("f"), "more than 8 extended headers before one entry")


@pytest.mark.parametrize(
    "member",
    [lambda at: entry("same"), lambda at: entry(f"p{at}", tarfile.FIFOTYPE), lambda at: entry(".", tarfile.DIRTYPE)],
    ids=["repeated", "pipe", "root"],
)
def test_entries_that_leave_nothing_are_counted(
    member: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarstream, "ENTRIES", 100)
    assert rewrite(io.BytesIO(b"".join(map(member, range(100))) + bytes(1024)), lambda _: None) in (0, 100)
    refused(b"".join(map(member, range(101))), "more than 100 entries")


def test_headers_are_counted_over_all_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarstream, "ENTRIES", 100)
    one = header(tarfile.XHDTYPE, b"6 a=b\n") + entry("same")
    assert rewrite(io.BytesIO(one * 100 + bytes(1024)), lambda _: None) == 100
    refused((header(tarfile.XHDTYPE, b"6 a=b\n") * 4 + entry("same")) * 51, "more than 200 extended headers")


def test_a_name_of_a_million_dots_is_not_split() -> None:
    name = b"./" * 500_000 + b"f"
    refused((header(tarfile.GNUTYPE_LONGNAME, name) + entry("f")) * 64, "overlong name")
    refused(entry("f") + (header(tarfile.GNUTYPE_LONGLINK, name) + entry("h", tarfile.LNKTYPE)) * 64, "overlong name")


class Stream:
    """Gives parts one after the other, as they are asked for."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        self._rest = self._rest or next(self._parts, b"")
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


def test_long_paths_take_no_more_memory_than_short_ones() -> None:
    folder = "/".join(["d" * 250] * 16)
    long = (header(tarfile.GNUTYPE_LONGNAME, f"{folder}/{at}".encode()) + entry("f") for at in range(2000))
    tracemalloc.start()
    try:
        assert rewrite(Stream(itertools.chain(long, [bytes(1024)])), lambda _: None) == 2000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_a_folder_is_looked_up_once_however_deep_it_is() -> None:
    """Every entry lies in another folder than the one before it, all of them a hundred levels down."""

    def seconds(*names: str) -> float:
        stream = b"".join(header(tarfile.GNUTYPE_LONGNAME, name.encode()) + entry("f") for name in names) * 1000
        started = time.process_time()
        assert rewrite(io.BytesIO(stream + bytes(1024)), lambda _: None) == 2000
        return time.process_time() - started

    folder = "/".join(["d" * 39] * 98)
    assert seconds(f"{folder}/left/f", f"{folder}/right/f") < 3 * seconds(f"{'d' * 99}/left/f", f"{'d' * 99}/right/f")


@pytest.mark.parametrize("field", [b"\x08", b"\x10"], ids=["name", "comment"])
def test_a_gzip_header_without_an_end_is_not_read_to_its_end(field: bytes) -> None:
    """Python's own reader takes each of these bytes by itself."""
    blob = io.BytesIO(b"\x1f\x8b\x08" + field + bytes(6) + b"a" * (64 * MIB))
    started = time.process_time()
    with pytest.raises(LayerError, match="unpack to nothing"):
        unpacked(blob, "gzip").read(512)
    assert time.process_time() - started < SECONDS
    assert blob.tell() < 2 * MIB


def test_members_of_gzip_that_are_empty_come_to_an_end() -> None:
    started = time.process_time()
    with pytest.raises(LayerError, match="unpack to nothing"):
        unpacked(io.BytesIO(gzip.compress(b"") * (8 * MIB // 20)), "gzip").read(512)
    assert time.process_time() - started < SECONDS


def test_zeros_behind_gzip_are_passed_over() -> None:
    source = unpacked(io.BytesIO(gzip.compress(b"x") + bytes(64 * MIB)), "gzip")
    started = time.process_time()
    assert source.read(512) + source.read(512) == b"x"
    assert time.process_time() - started < SECONDS


def test_a_bomb_is_unpacked_a_little_at_a_time() -> None:
    bomb = gzip.compress(bytes(256 * MIB), 9)
    tracemalloc.start()
    try:
        source = unpacked(io.BytesIO(bomb), "gzip")
        assert len(source.read(512)) == 512
        assert 0 < len(source.read(MIB)) <= MIB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB
