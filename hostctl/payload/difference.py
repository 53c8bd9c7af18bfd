"""The content of an ``add`` segment: bytes as a difference to other bytes, and its cheap application in plain Python.

Programs whose addresses moved differ from their former selves in a few bytes everywhere. There a byte-wise difference
to the aligned old bytes is nearly all zeros and compresses far better than copies and literals. The form is that of
bsdiff (Colin Percival, "Naive differences of executable code", 2003): steps (add, extra, seek), each of which adds
``add`` bytes of difference to the reference at the current position, then takes ``extra`` bytes as they are, then
moves the position by ``seek``.

Layout, all numbers 32 bits, little-endian: the number of steps; all ``add``; all ``extra``; all ``seek`` (signed); the
differences; the extra bytes. Applying costs about 4 ns a byte where the differences are not zero, and a fifth where
they are.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

MAX_STEPS = 65536
COUNT = struct.Struct("<I")
STEP_BYTES = 12
MAX_OVERHEAD = COUNT.size + MAX_STEPS * STEP_BYTES
"""Bytes that a difference may have more than what it makes."""

_CHUNK = 4096  # one chunk without a difference costs a comparison, one with costs arithmetic
_ZERO = bytes(_CHUNK)
_LOW = int.from_bytes(b"\x7f" * _CHUNK, "little")
_HIGH = int.from_bytes(b"\x80" * _CHUNK, "little")


class DifferenceError(ValueError):
    """A difference does not fit what it is applied to."""


Step = tuple[int, int, int]
"""Bytes to add to, bytes to take, bytes to move by."""


def _column(numbers: Sequence[int], code: str) -> bytes:
    column = array(code, numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def pack(steps: Sequence[Step], difference: bytes, extra: bytes) -> bytes:
    """Return a difference in its layout.

    Raises:
        DifferenceError: it has more than :data:`MAX_STEPS` steps.
    """
    if len(steps) > MAX_STEPS:
        raise DifferenceError(f"{len(steps)} steps are more than {MAX_STEPS}")
    columns = (
        _column([add for add, _, _ in steps], "I"),
        _column([taken for _, taken, _ in steps], "I"),
        _column([seek for _, _, seek in steps], "i"),
    )
    return b"".join((COUNT.pack(len(steps)), *columns, difference, extra))


def _steps(packed: bytes) -> tuple[list[Step], int]:
    if len(packed) < COUNT.size:
        raise DifferenceError("shorter than its head")
    (count,) = COUNT.unpack_from(packed)
    end = COUNT.size + count * STEP_BYTES
    if count > MAX_STEPS or end > len(packed):
        raise DifferenceError(f"{count} steps do not fit")
    numbers = struct.unpack_from(f"<{2 * count}I{count}i", packed, COUNT.size)
    return list(zip(numbers[:count], numbers[count : 2 * count], numbers[2 * count :], strict=True)), end


def add_bytes(target: bytearray, difference: bytes, begin: int = 0) -> None:
    """Add bytes of ``difference`` from ``begin`` on to all of ``target``, each without carry, in place."""
    for start in range(0, len(target), _CHUNK):
        # Slices of bytes are copied, and yet they compare ten times as fast as views of them.
        part = difference[begin + start : begin + min(start + _CHUNK, len(target))]
        if part == _ZERO[: len(part)]:
            continue
        left = int.from_bytes(target[start : start + _CHUNK], "little")
        right = int.from_bytes(part, "little")
        # The upper bit of each byte is added without its carry, so that no byte reaches into the next.
        total = ((left & _LOW) + (right & _LOW)) ^ ((left ^ right) & _HIGH)
        target[start : start + _CHUNK] = total.to_bytes(len(part), "little")


def busy(added: bytes) -> int:
    """Return how many bytes of a difference cost arithmetic when it is applied."""
    starts = range(0, len(added), _CHUNK)
    return _CHUNK * sum(added[start : start + _CHUNK] != _ZERO[: len(added) - start] for start in starts)


def apply(packed: bytes, reference: bytearray, length: int) -> bytes | bytearray:
    """Return what a difference makes of a reference.

    Args:
        packed: the difference; it may come from anybody.
        reference: the bytes that it was made against. It is emptied as soon as it is used up, to save memory.
        length: bytes that must come out.

    Raises:
        DifferenceError: it points outside the reference, or makes another number of bytes.
    """
    steps, begin = _steps(packed)
    added = sum(add for add, _, _ in steps)
    taken = sum(extra for _, extra, _ in steps)
    if added + taken != length or begin + length != len(packed):
        raise DifferenceError(f"it makes {added + taken} bytes of {len(packed) - begin}, not {length}")
    view, position = memoryview(reference), 0
    parts = []
    for add, _, seek in steps:
        if position < 0 or position + add > len(reference):
            raise DifferenceError("it points outside its reference")
        parts.append(view[position : position + add])
        position += add + seek
    moved = bytearray().join(parts)
    del parts
    view.release()
    reference.clear()
    add_bytes(moved, packed, begin)
    if not taken:
        return moved
    return b"".join(_interleaved(steps, memoryview(moved), memoryview(packed)[begin + added :]))


def _interleaved(steps: Sequence[Step], moved: memoryview, extra: memoryview) -> list[memoryview]:
    parts: list[memoryview] = []
    place = taken = 0
    for add, count, _ in steps:
        parts += (moved[place : place + add], extra[taken : taken + count])
        place += add
        taken += count
    return parts
