"""What may be shown on a terminal of text that others chose: names of files, what a program or a registry said."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with everything that could confuse a terminal replaced, line breaks included."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def printable_lines(text: str) -> list[str]:
    """Return the lines of ``text``, each printable."""
    return [printable(line) for line in text.splitlines()]
