"""Makes tar streams that almost are what they should be, the same ones for the same seed."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

BLOCK = 512
NAMES: tuple[str, ...] = (
    "a",
    "a/b",
    "etc/passwd",
    "../x",
    "/etc/x",
    "a/../../x",
    ".wh.a",
    "a/.wh..wh..opq",
    "a/.wh...",
    ".",
    "",
    "..",
)
NAMES += ("x" * 200, "/".join("d" * 120), "proc", "dev/null", "a\n/b", "\udcff\udcfe", "a//b/", "./a", "n" * 256)
KINDS = b"\x000123456789ABDKLMNSVXgx"
FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
"""Offset and size of what a header holds (POSIX.1-1988 ustar)."""
NUMBERS = (
    b"0",
    b"-1",
    b"77777777777",
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"\x80" + b"\0" * 7 + b"\x7f" * 4,
    b"9z",
    b"",
)


def _entry(tar: tarfile.TarFile, chance: random.Random) -> None:
    info = tarfile.TarInfo(chance.choice(NAMES) or "x")
    info.type = chance.choice(
        (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    )
    info.linkname = chance.choice(NAMES)
    info.mode, info.uid, info.gid = chance.choice((0o644, 0o4755, 0o7777)), chance.choice((0, 65535, 70000)), 0
    if chance.random() < 0.3:
        key = chance.choice(("path", "linkpath", "size", "GNU.sparse.major", "SCHILY.xattr.trusted.overlay.opaque"))
        info.pax_headers = {key: chance.choice((*NAMES, "-5", "99999999999999"))}
    data = chance.randbytes(chance.choice((0, 1, 511, 512, 513))) if info.type == tarfile.REGTYPE else b""
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _whole(chance: random.Random) -> bytearray:
    out = io.BytesIO()
    form = chance.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for _ in range(chance.randint(1, 6)):
            _entry(tar, chance)
    return bytearray(out.getvalue()[: -chance.choice((0, 9)) * BLOCK or None])


def _headers(data: bytearray) -> list[int]:
    return [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if any(data[at : at + 100])]


def _sign(data: bytearray, at: int) -> None:
    """Make the checksum of a header right, so that what is behind it is looked at."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


def _field(data: bytearray, chance: random.Random) -> None:
    at = chance.choice(_headers(data) or [0])
    place, size = chance.choice(FIELDS)
    texts: tuple[bytes, ...] = NUMBERS if 100 <= place < 150 else tuple(x.encode("utf-8", "replace") for x in NAMES)
    value = bytes([chance.choice(KINDS)]) if size == 1 else chance.choice(texts)
    data[at + place : at + place + size] = value[:size].ljust(size, b"\0")
    _sign(data, at)


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.7:
        for at in _headers(data):
            _sign(data, at)


def _blocks(data: bytearray, chance: random.Random) -> None:
    count = len(data) // BLOCK
    at, to = (chance.randrange(count) * BLOCK for _ in range(2))
    block = data[at : at + BLOCK]
    if chance.random() < 0.5:
        del data[at : at + BLOCK]
    data[to:to] = block


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (_field, _field, _field, _flip, _blocks, _cut)


def mutated(seed: int) -> bytes:
    """Return the stream of a seed."""
    chance = random.Random(seed)  # noqa: S311 - the same for the same seed, no secret
    data = _whole(chance)
    for _ in range(chance.randint(0, 3)):
        if len(data) >= BLOCK:
            chance.choice(MUTATIONS)(data, chance)
    return bytes(data)
