"""``--filter KIND=VALUE`` of verbs that list: of one kind any may hold, of different kinds all must."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from hostctl.errors import UsageError

Row = TypeVar("Row")
WORDS = {"true": True, "1": True, "false": False, "0": False}


def configure(parser: argparse.ArgumentParser, kinds: Collection[str]) -> None:
    """Add the argument; its help names the kinds."""
    text = f"only such, by {', '.join(f'{kind}=' for kind in kinds)}; of several of one kind any"
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KIND=VALUE", help=text)


def chosen(
    rows: Sequence[Row], filters: Sequence[str], kinds: Mapping[str, Callable[[Row, str], bool]]
) -> tuple[Row, ...]:
    """Return the rows that every kind of filter lets through.

    Raises:
        UsageError: a filter of an unknown kind, or with a value that it cannot have.
    """
    wanted: dict[str, list[str]] = {}
    for text in filters:
        kind, equals, value = text.partition("=")
        if not equals or kind not in kinds:
            raise UsageError(f"--filter {text}: no such filter", hint=f"KIND=VALUE with {', '.join(kinds)}")
        wanted.setdefault(kind, []).append(value)
    return tuple(
        row for row in rows if all(any(kinds[kind](row, value) for value in values) for kind, values in wanted.items())
    )


def truth(text: str) -> bool:
    """Return the truth that a filter's value stands for.

    Raises:
        UsageError: none.
    """
    if text.lower() not in WORDS:
        raise UsageError(f"--filter: {text!r} is neither true nor false")
    return WORDS[text.lower()]


def labelled(labels: Mapping[str, str], wanted: str) -> bool:
    """Tell whether there is a label, written NAME or NAME=VALUE."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def matches(name: str, wanted: str) -> bool:
    """Tell whether a name matches a pattern with ``*`` and ``?``."""
    return fnmatchcase(name, wanted)
