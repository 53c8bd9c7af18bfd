"""Versions of releases, ordered as systemd orders them, so that the boot loader and the agent agree on the newest."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import ClassVar

from hostctl.config.text import Text


def _sign(left: int | str, right: int | str) -> int:
    if isinstance(left, str) or isinstance(right, str):
        return (str(left) > str(right)) - (str(left) < str(right))
    return (left > right) - (left < right)


def _segments(left: str, right: str) -> tuple[int, int, int]:
    """Compare the leading digits (or else letters) and return the order and how much of each was read."""
    if left[0].isdigit() or right[0].isdigit():
        a, b = ("".join(takewhile(str.isdigit, text)) for text in (left, right))
        numbers = a.lstrip("0"), b.lstrip("0")
        order = _sign(bool(a), bool(b)) or _sign(len(numbers[0]), len(numbers[1])) or _sign(*numbers)
    else:
        a, b = ("".join(takewhile(str.isalpha, text)) for text in (left, right))
        order = _sign(a, b)
    return order, len(a), len(b)


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 as ``left`` is older than, as new as, or newer than ``right``.

    The algorithm of the UAPI group's version format specification (UAPI.10), as ``systemd-analyze compare-versions``.
    All but ASCII letters, digits and ``.~^-`` is passed over, as there.
    """
    left, right = (re.sub(r"[^A-Za-z0-9.~^-]", "", text) for text in (left, right))
    while True:
        for mark in "~", "", "-", "^", ".":
            if not mark:
                if not left or not right:
                    return _sign(bool(left), bool(right))
                continue
            marks = left.startswith(mark), right.startswith(mark)
            if marks[0] != marks[1]:
                return -1 if marks[0] else 1
            if marks[0]:
                left, right = left[1:], right[1:]
        if not left or not right:
            continue
        order, a, b = _segments(left, right)
        if order:
            return order
        left, right = left[a:], right[b:]


class ReleaseVersion(Text):
    """The version of a release. ``<`` and ``>`` follow UAPI.10; ``==`` is equality of the text."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z0-9][A-Za-z0-9.~^-]{0,23}"
    EXPECTED: ClassVar[str] = "a version of up to 24 letters, digits and . ~ ^ -, starting with a letter or digit"
    EXAMPLE: ClassVar[str] = "2026.11.1"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse a last mark, which two programs would cut off differently."""
        if re.search(r"[.~^-]$", text):
            raise ValueError(f"{text!r} must end with a letter or digit")
        return text

    def compare(self, other: str) -> int:
        """Return -1, 0 or 1 as this is older than, as new as, or newer than ``other``."""
        return compare(self, other)

    def __lt__(self, other: str) -> bool:
        """Older."""
        return compare(self, other) < 0

    def __le__(self, other: str) -> bool:
        """Not newer."""
        return compare(self, other) <= 0

    def __gt__(self, other: str) -> bool:
        """Newer."""
        return compare(self, other) > 0

    def __ge__(self, other: str) -> bool:
        """Not older."""
        return compare(self, other) >= 0
