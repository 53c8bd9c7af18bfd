"""What is wrong with a declaration, where, and what would be right: every problem of a file at once."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.printable import printable

_WINDOW = 100
"""How much of a long source line is shown, in characters."""


def _excerpt(source: str, column: int) -> tuple[str, str]:
    """Return the part of a source line that is shown, and the blanks before its caret."""
    start = max(0, column - 1 - _WINDOW // 2) if len(source) > _WINDOW else 0
    shown = printable(source[start : start + _WINDOW])
    before = shown[: column - 1 - start]
    wide = {letter: "  " for letter in before if unicodedata.east_asian_width(letter) in "WF"}
    return shown, "".join("\t" if letter == "\t" else wide.get(letter, " ") for letter in before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong in one place of a file."""

    line: int
    """Counted from 1."""
    column: int
    """Counted from 1, in characters."""
    path: str
    """Dotted path of the setting; empty when it is the file as a whole."""
    message: str
    """What is wrong."""
    hint: str = ""
    """What would be right."""
    source: str = ""
    """The line of the file."""

    def render(self, name: str) -> str:
        """Return ``name:line:column: path: message; hint`` with the source line and a caret below it."""
        where = f"{name}:{self.line}:{self.column}: "
        text = printable(where + (f"{self.path}: " if self.path else "") + self.message)
        text += f"; {printable(self.hint)}" if self.hint else ""
        if not self.source.strip():
            return text
        shown, blanks = _excerpt(self.source, self.column)
        return f"{text}\n  {self.line:>4} | {shown}\n       | {blanks}^"


class DeclarationError(HostctlError):
    """A declaration is not valid. ``render`` lists every problem in the order of the file."""

    id: ClassVar[str] = "declaration-invalid"
    exit_code: ClassVar[int] = EXIT_USAGE

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        """Keep the problems of the file called ``name``, at least one."""
        self.name = name
        self.problems = problems
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{printable(name)}: {count}", details="\n".join(each.render(name) for each in problems))

    def render(self) -> str:
        """Return the problems as a compiler would print them."""
        return self.details
