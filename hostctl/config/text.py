"""Base of the value types that are text: a string that was checked once and is in canonical form from then on.

A subclass states the grammar as ``PATTERN`` (also published in the JSON Schema, so it keeps to what Python and
ECMA-262 read alike) and refines it in ``canonical``. Construction checks, so a value of such a type is always valid.
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

MAX_LENGTH = 8192
"""Of any checked text, in characters: an RSA key of 16384 bits is 2800. Bounds the time that patterns take."""


def quoted(text: str) -> str:
    """Return ``text`` in quotes for an error message, shortened when it is long."""
    return repr(text) if len(text) <= 60 else repr(text[:57] + "...")


class Text(str):
    """A checked string. ``Type(text)`` and ``Type.parse(text)`` are the same and raise ValueError."""

    __slots__ = ()

    PATTERN: ClassVar[str] = ".*"
    """Regular expression that the whole text must match."""
    EXPECTED: ClassVar[str] = "text"
    """What the text should be, as the end of a sentence."""
    EXAMPLE: ClassVar[str] = ""
    """One valid text, for the schema and the reference."""

    def __new__(cls, text: str) -> Self:
        """Check ``text`` and bring it into canonical form.

        Raises:
            ValueError: it is not of this type; the message says what would be.
        """
        if len(text) > MAX_LENGTH:
            raise ValueError(f"{quoted(text)} is longer than {MAX_LENGTH} characters")
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(cls.refusal(text))
        return super().__new__(cls, cls.canonical(text))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value that ``text`` writes; raises ValueError as the constructor does."""
        return cls(text)

    @classmethod
    def refusal(cls, text: str) -> str:
        """Return what to say of a text that does not match PATTERN."""
        return f"{quoted(text)} is not {cls.EXPECTED}"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the canonical form of a text that matches PATTERN, or raise ValueError."""
        return text
