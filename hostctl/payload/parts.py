"""What an output consists of, as named stretches of bytes: the view in which two releases are compared.

A file of the root, a file of the initrd, the kernel: what has the same name in two releases is likely to resemble
each other wherever it lies. What lies between two named stretches (inodes and folders of a file system, headers) is
named after what stands before it. Pure; the readers of the formats are beside this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_DIGITS = re.compile(r"[0-9]+")


class LayoutError(ValueError):
    """Bytes are not laid out as the reader expects. Nothing depends on it but the size of a delta."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Part:
    """A named stretch of a file."""

    offset: int
    length: int
    name: str

    @property
    def end(self) -> int:
        """Return the offset behind it."""
        return self.offset + self.length


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A file's whole content: the stretches (offset, length) that it consists of, in order."""

    name: str
    stretches: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Everything that is known of a file's inside."""

    parts: tuple[Part, ...]
    """Cover the file without gaps or overlaps."""
    contents: tuple[Content, ...] = ()


def likeness(name: str) -> str:
    """Return what two versions of one name have in common: versions are numbers."""
    return _DIGITS.sub("#", name)


def cover(named: Iterable[Part], size: int) -> tuple[Part, ...]:
    """Return parts that cover ``size`` bytes: the named ones, and what is between them.

    Args:
        named: in any order; of two that overlap the later one is left out.
        size: of the file.

    Raises:
        LayoutError: one reaches beyond the file.
    """
    found: list[Part] = []
    position, before = 0, ""
    for part in sorted(named):
        if part.offset < position:
            continue
        if part.end > size:
            raise LayoutError(f"{part.name} ends at {part.end}, behind the file's {size} bytes")
        if part.offset > position:
            found.append(Part(offset=position, length=part.offset - position, name=f"after {before}"))
        if part.length:
            found.append(part)
        position, before = part.end, part.name
    if position < size:
        found.append(Part(offset=position, length=size - position, name=f"after {before}"))
    return tuple(found)
