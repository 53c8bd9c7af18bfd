"""Where a host stands with its updates, for `hostctl status`: told from the boot entries, the journal and the lock.

Reads only. What only root may read is left out for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostctl.boot.entries import BootEntry, choose, parse_entries
from hostctl.layout import HostLayout
from hostctl.os_release import identity
from hostctl.update import journal
from hostctl.update.journal import Line
from hostctl.update.lock import holder
from hostctl.update.stages import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why the last update did not come to its end."""

    version: str
    stage: str
    cause: str
    time: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateState:
    """Where a host stands; texts are empty where there is nothing to tell."""

    staged: str
    """Version that the next boot starts, if it is another one than runs."""
    trial: int | None
    """Tries that the running release has left; none if it is blessed, or that cannot be read."""
    stage: str
    """Last stage that the journal tells of the update that is at work, or was cut off."""
    version: str
    """The release that this update is to."""
    busy: str
    """Who is at work."""
    failure: Failure | None


def failure_of(lines: Sequence[Line]) -> Failure | None:
    """Return how the last update failed; none if it ended well, or there was none.

    That the repository could not be asked is over once it could be.
    """
    asked = False
    for line in reversed(lines):
        looked = line.stage == Stage.METADATA
        if line.event == journal.FINISHED:
            return None
        if line.event == journal.FAILED and not (looked and asked):
            return Failure(version=line.version, stage=line.stage, cause=line.cause, time=line.time)
        asked = asked or (looked and line.event == journal.DONE)
    return None


def open_stage(lines: Sequence[Line]) -> tuple[str, str]:
    """Return the last stage and the version of an update that has not ended, or two empty texts."""
    stage = ""
    for line in reversed(lines):
        if line.stage == Stage.METADATA:
            continue  # a look at the repository ends no update, and begins none
        if line.event in (journal.FINISHED, journal.FAILED):
            return "", ""
        stage = stage or line.stage
        if line.event == journal.STARTED:
            return stage or Stage.START, line.version
    return "", ""


def derive(*, running: str, entries: Iterable[BootEntry], lines: Sequence[Line], busy: str = "") -> UpdateState:
    """Return where a host stands. Pure.

    Args:
        running: version of the running release.
        entries: what is in the ESP; none if that cannot be read.
        lines: the journal of the updater.
        busy: who is at work.
    """
    entries = tuple(entries)
    first = choose(entries)
    own = [entry for entry in entries if entry.version == running]
    stage, version = open_stage(lines)
    return UpdateState(
        staged=first.version if first is not None and first.version != running else "",
        # An entry that was not tried, and has no tries, is one that a rollback gave up.
        trial=None if any(entry.good for entry in own) else next((entry.left for entry in own if entry.done), None),
        stage=stage,
        version=version,
        busy=busy,
        failure=failure_of(lines),
    )


def read(layout: HostLayout) -> UpdateState:
    """Return where the host at hand stands."""
    release = identity(layout.root)
    folder = layout.esp / "EFI/Linux"
    try:
        names = [path.name for path in folder.iterdir() if path.stat().st_size]
    except OSError:
        names = []
    lines = journal.read(layout.state / "update.jsonl")
    who = holder(layout.runtime)
    return derive(
        running=release.version,
        entries=parse_entries(names, release.name),
        lines=lines,
        busy=str(who) if who else "",
    )


def sentences(state: UpdateState) -> list[str]:
    """Return what is worth telling people."""
    said = []
    if state.busy:
        said.append(f"{state.busy} is at work{f', at {state.stage} of {state.version}' if state.stage else ''}")
    elif state.stage:
        said.append(f"to {state.version} was cut off after {state.stage}; `hostctl update` goes on")
    if state.trial is not None:
        last = f"the last one: if it fails, {state.staged} is next" if state.staged else "the last one"
        said.append(f"this boot is a trial, {f'{state.trial} more if it fails' if state.trial else last}")
    elif state.staged:
        said.append(f"{state.staged} is staged, the next boot tries it")
    if state.failure is not None and not state.busy:
        failure = state.failure
        to = f"to {failure.version} " if failure.version else ""
        said.append(f"{to}failed at {failure.stage}: {failure.cause} ({failure.time})")
    return said
