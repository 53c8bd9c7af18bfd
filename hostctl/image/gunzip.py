"""Reads gzip (RFC 1952) in bounded steps: members that follow each other, and the zeros behind them.

Python's ``gzip`` takes the name in a header and the zeros behind a member byte by byte, so a few megabytes of them cost
seconds. Here zlib reads the headers and checks the sums, and input that unpacks to nothing is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from hostctl.image.tarstream import LayerError, Source

INPUT = 16 << 10  # bytes that are read at a time; what is left of them is copied at the end of every member
OUTPUT = 64 << 10  # bytes that are unpacked at a time
IDLE_BYTES = 1 << 20  # an honest header has 64 KiB and two names, an empty member 20 bytes
GZIP = 16 + zlib.MAX_WBITS


def _parts(source: Source) -> Iterator[bytes]:
    idle, packed = 0, source.read(INPUT)
    while packed:
        member = zlib.decompressobj(GZIP)
        while not member.eof:
            plain = member.decompress(packed, OUTPUT)
            rest = member.unused_data if member.eof else member.unconsumed_tail
            idle = 0 if plain else idle + len(packed) - len(rest)
            if idle > IDLE_BYTES:
                raise LayerError(f"the layer is malformed gzip: {IDLE_BYTES} bytes of it unpack to nothing")
            packed = rest
            if plain:
                yield plain
            elif not packed and not member.eof:
                packed = source.read(INPUT)
                if not packed:
                    raise EOFError("the gzip stream is cut off")
        packed = packed.lstrip(b"\0")
        while not packed and (following := source.read(INPUT)):
            packed = following.lstrip(b"\0")


class Gunzip:
    """The unpacked bytes of ``source``; reading raises LayerError, EOFError and zlib.error."""

    def __init__(self, source: Source) -> None:
        self._parts = _parts(source)
        self._part = b""
        self._given = 0

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if self._given == len(self._part):
            self._part, self._given = next(self._parts, b""), 0
        found = self._part[self._given : self._given + size]
        self._given += len(found)
        return found
