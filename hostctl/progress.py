"""Progress on standard error: one line a stage with its time, honouring NO_COLOR and non-terminals."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Writes what is being done, and how long it took, to a stream."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.quiet = quiet
        terminal = self.stream.isatty()
        self._live = terminal and os.environ.get("TERM") != "dumb"
        self._color = self._live and "NO_COLOR" not in os.environ

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def line(self, text: str) -> None:
        """Write one full line."""
        if not self.quiet:
            start = "\r\x1b[K" if self._live else ""
            self.stream.write(f"{start}{text}\n")
            self.stream.flush()

    def update(self, text: str) -> None:
        """Show a passing state on a terminal; elsewhere nothing."""
        if self._live and not self.quiet:
            self.stream.write(f"\r\x1b[K{text}")
            self.stream.flush()

    def done(self, name: str, seconds: float, note: str = "") -> None:
        """Write the line of a finished stage."""
        mark = self._style("32", "✓")
        self.line(f"{mark} {name:<28} {seconds:6.1f} s{f'  {note}' if note else ''}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage: its start is shown while it runs, its end with the time it took."""
        started = time.monotonic()
        self.update(f"· {name} …")
        try:
            yield
        except BaseException:
            self.line(f"{self._style('31', '✗')} {name:<28} {time.monotonic() - started:6.1f} s")
            raise
        self.done(name, time.monotonic() - started)
