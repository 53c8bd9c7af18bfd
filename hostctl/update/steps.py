"""Goes through the stages of one update: tells whoever asked, waits at the harness' port, keeps the journal.

The order of stages and what happens in them is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hostctl.update import journal
from hostctl.update.host import UpdateHost
from hostctl.update.journal import Journal, Line
from hostctl.update.stage_port import reach
from hostctl.update.stages import AFTER, BEFORE, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """An edge of a stage."""

    stage: Stage
    edge: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Progressed:
    """How far a stage is."""

    stage: Stage
    bytes: int
    total: int
    rate: float
    """Bytes a second since the stage began."""
    left: float | None
    """Seconds that are left at that rate; none if nothing can be said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    """Something that does not stop the update, but that somebody should know."""

    text: str


Event = Reached | Progressed | Warned
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Tell nobody."""
    del event


class Steps:
    """One run through stages."""

    def __init__(self, host: UpdateHost, report: Report) -> None:
        self._host = host
        self._report = report
        self._journal = Journal(host.journal)
        self._version = ""
        self._root_hash = ""
        self._began = time.monotonic()
        self._stage_began = self._began
        self._bytes = 0

    def about(self, version: str, root_hash: str) -> None:
        """Say which release the stages from here on are about."""
        self._version, self._root_hash = version, root_hash

    def start(self, cause: str) -> None:
        """Note that an update begins, and how the release is made."""
        self._note(journal.STARTED, cause=cause)

    def finish(self, cause: str) -> None:
        """Note that all is done that was asked for."""
        self._note(journal.FINISHED, seconds=time.monotonic() - self._began, cause=cause)

    def reach(self, stage: Stage, edge: str) -> None:
        """Tell that an edge is reached; a harness may stop the machine here."""
        self._report(Reached(stage=stage, edge=edge))
        reach(stage, edge, self._host.port)

    def warn(self, text: str) -> None:
        """Tell something that does not stop the update."""
        self._report(Warned(text=text))

    def progress(self, stage: Stage, done: int, total: int) -> None:
        """Tell how many bytes of ``total`` a stage has done since it began."""
        self._bytes = done
        spent = time.monotonic() - self._stage_began
        rate = done / spent if spent > 0 else 0.0
        left = (total - done) / rate if rate > 0 else None
        self._report(Progressed(stage=stage, bytes=done, total=total, rate=rate, left=left))

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Do one stage; how it ended is in the journal."""
        self._stage_began, self._bytes = time.monotonic(), 0
        try:
            self.reach(stage, BEFORE)
            yield
            self.reach(stage, AFTER)
        except BaseException as error:
            self._end(journal.FAILED, stage, journal.cause_of(error))
            raise
        self._end(journal.DONE, stage, "")

    def _end(self, event: str, stage: Stage, cause: str) -> None:
        seconds = time.monotonic() - self._stage_began
        self._note(event, stage=stage.value, seconds=seconds, done=self._bytes, cause=cause)

    def _note(self, event: str, *, stage: str = "", seconds: float = 0.0, done: int = 0, cause: str = "") -> None:
        known = self._journal.lost
        self._journal.add(
            Line(
                time=journal.now(),
                event=event,
                version=self._version,
                root_hash=self._root_hash,
                stage=stage,
                seconds=round(seconds, 3),
                bytes=done,
                cause=cause[: journal.MAX_CAUSE],
            )
        )
        if self._journal.lost and not known:
            self.warn(f"the journal of the update cannot be written: {self._journal.lost}")
