"""The one exception root.

Every failure that a user can meet is a leaf class of :class:`HostctlError`, defined beside the
code that raises it. Nothing below ``main`` prints an error or exits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar

from hostctl.printable import printable_lines

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69  # sysexits.h EX_UNAVAILABLE: the agent, a registry or a repository cannot be reached
EXIT_BUSY = 75  # sysexits.h EX_TEMPFAIL: somebody else holds the lock
EXIT_NOT_BEGUN = 125  # as Docker, whose exit status is otherwise that of what it runs
EXIT_NOT_EXECUTABLE = 126  # as shells
EXIT_NOT_FOUND = 127  # as shells


class HostctlError(Exception):
    """A failure with what happened, the evidence, and what to do.

    Args:
        brief: one line that says what is wrong, with the thing's name in it.
        details: further lines of evidence, for example the end of a program's error output.
        hint: what the user can do about it.
    """

    id: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint

    def render(self) -> str:
        """Return the text a terminal shows, without a trailing newline; names in it may be anybody's choice."""
        brief, hint = printable_lines(self.brief), printable_lines(self.hint)
        details = [f"  {line}" for line in printable_lines(self.details)]
        lines = ["error: " + "\n  ".join(brief), *details]
        if hint:
            lines.append("hint: " + "\n  ".join(hint))
        return "\n".join(lines)


class UsageError(HostctlError):
    """The command was called in a way that cannot work."""

    id = "usage"
    exit_code = EXIT_USAGE


@contextmanager
def ending_with(code: int, but: Collection[int] = ()) -> Iterator[None]:
    """Let failures in the block end the process with another code, but for those that have one of ``but``.

    Raises:
        HostctlError: what the block raised, with that code.
    """
    try:
        yield
    except HostctlError as error:
        if error.exit_code in (code, *but):
            raise
        leaf: type[HostctlError] = type(type(error).__name__, (HostctlError,), {"id": error.id, "exit_code": code})
        raise leaf(error.brief, details=error.details, hint=error.hint) from error
