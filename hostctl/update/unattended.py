"""One run of the unattended update: finds out how things are, decides, does it, until there is only to wait.

systemd starts a run every hour, when the time of the last run's waiting is over, when the clock was set, when a
declaration or a hold changes; a run never waits itself. What it remembers lies in the runtime folder and is gone with
the boot. A repository or lock server that does not answer stops nothing but itself.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Protocol, assert_never
from zoneinfo import ZoneInfo

from hostctl import durable
from hostctl.config.host import UpdatePolicy
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.update import fleet_lock, freshness, hold
from hostctl.update import policy as rules
from hostctl.update.fleet_lock import Turn
from hostctl.update.freshness import Moment
from hostctl.update.outlook import NOTES
from hostctl.update.policy import AskLock, CallOff, Check, Memory, Restart, Situation, Wait, Warn

log = logging.getLogger(__name__)

MAX_STEPS = 12
"""More than a run can take: it looks, asks, warns, calls off and restarts once each."""
_RETRY_SECONDS = 60.0
_MAX_BYTES = 65536


class UnattendedBusyError(HostctlError):
    """Another unattended run is at work."""

    id = "unattended-busy"
    exit_code = EXIT_BUSY


class Surroundings(Protocol):
    """What a run sees of the host and does to it."""

    def moment(self) -> Moment:
        """Return the time, the boot and its uptime."""

    def staged(self) -> str:
        """Return the version that the next boot starts, if it is newer than the running one, else nothing."""

    def inhibitors(self) -> tuple[str, ...]:
        """Return who holds a restart back."""

    def terminals(self) -> int:
        """Return how many terminals have people."""

    def look(self, heard: Callable[[], None]) -> None:
        """Look for a release, load and stage it; ``heard`` is called once the repository's word is verified."""

    def tell(self, text: str) -> None:
        """Tell people at terminals."""

    def wake(self, seconds: float) -> None:
        """Have another run started in so many seconds, and not by what was asked before."""

    def restart(self, *, despite_inhibitors: bool) -> None:
        """Restart the host."""

    def give_back_turn(self) -> None:
        """Have the turn given back, now or when the lock server can be reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What a run leaves to the next one, and to whoever asks what the host is waiting for."""

    memory: Memory = Memory()  # noqa: RUF009 - frozen
    says: str = ""
    """What it waits for."""
    problem: str = ""
    """Why the last look at the repository failed, if it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attended:
    """A host and its policy."""

    policy: UpdatePolicy
    zone: ZoneInfo
    machine_id: str
    state: Path
    """hostctl's state folder."""
    runtime: Path
    """hostctl's runtime folder."""


def read_notes(runtime: Path) -> Notes:
    """Return what the last run of this boot left; nothing where that cannot be read."""
    try:
        with (runtime / NOTES).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        memory = document["memory"]
        known = Memory(**{field.name: memory[field.name] for field in fields(Memory)})
        return Notes(memory=known, says=str(document["says"]), problem=str(document["problem"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Notes()


def run(host: Attended, around: Surroundings) -> Notes:
    """Bring things as far as they go now, and return what is waited for.

    Raises:
        UnattendedBusyError: another run is at work.
        HostctlError: a leaf of it, when the host cannot be asked or its state not be written.
    """
    with _only_one(host.runtime):
        notes = read_notes(host.runtime)
        for _ in range(MAX_STEPS):
            now = around.moment()
            at = _situation(host, around, now)
            action, memory = rules.decide(host.policy, host.zone, at, notes.memory)
            told, notes = notes.memory.warned_since is not None, replace(notes, memory=memory)
            if not isinstance(action, Wait):
                _write(host.runtime, notes)
            match action:
                case Check():
                    notes = replace(notes, problem=_look(host, around))
                case AskLock():
                    notes = replace(notes, memory=_ask(host, at, now.boot, memory))
                case Warn():
                    span = rules.span(action.left)
                    around.tell(f"This host restarts in {span}, into release {at.staged}. `hostctl hold` keeps it up.")
                case CallOff():
                    if told:
                        around.tell(f"The restart is called off: {action.why}.")
                    fleet_lock.call_off(host.state)
                    around.give_back_turn()
                case Restart():
                    return _restart(host, around, at, action, notes)
                case Wait():
                    return _wait(host, around, action.seconds, replace(notes, says=action.why))
                case _:
                    assert_never(action)
        return _wait(host, around, _RETRY_SECONDS, notes)


def _wait(host: Attended, around: Surroundings, seconds: float, notes: Notes) -> Notes:
    _write(host.runtime, notes)
    around.wake(max(1.0, seconds))
    return notes


def _restart(host: Attended, around: Surroundings, at: Situation, action: Restart, notes: Notes) -> Notes:
    if action.despite:
        log.warning("restarting despite %s, the declared delay is over", ", ".join(action.despite))
    around.tell(f"This host restarts now, into release {at.staged}.")
    notes = replace(notes, says=f"restarts into release {at.staged}")
    try:
        around.restart(despite_inhibitors=bool(action.despite))
    except HostctlError as error:
        log.warning("%s", error.render())
        return _wait(host, around, _RETRY_SECONDS, replace(notes, says=f"could not restart: {error.brief}"))
    _write(host.runtime, notes)
    return notes


@contextmanager
def _only_one(runtime: Path) -> Iterator[None]:
    runtime.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(runtime / "unattended.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnattendedBusyError("another unattended run is at work") from error
        yield
    finally:
        os.close(descriptor)


def _write(runtime: Path, notes: Notes) -> None:
    durable.write_file(runtime / NOTES, json.dumps(asdict(notes), sort_keys=True).encode() + b"\n")


def _situation(host: Attended, around: Surroundings, now: Moment) -> Situation:
    staged, held = around.staged(), hold.read(host.state, now.time)
    return Situation(
        now=now.time,
        uptime=now.uptime,
        share=rules.share(host.machine_id),
        held=f"updates are {held}" if held else "",
        staged=staged,
        inhibitors=around.inhibitors() if staged else (),
        terminals=around.terminals() if staged else 0,
        locked=_locked(host, now),
    )


def _locked(host: Attended, now: Moment) -> bool:
    """Tell whether the host has its turn. One of another server is none: asking for one gives that back first."""
    turn, lock = fleet_lock.read(host.state), host.policy.lock
    if turn is None or not turn.granted or turn.due_back(now.boot):
        return False
    return lock is None or turn.is_for(str(lock.url), str(lock.group))


def _look(host: Attended, around: Surroundings) -> str:
    """Look for a release and return what went wrong, if something did."""
    freeze_after = float(host.policy.freeze_after)

    def heard() -> None:
        try:
            freshness.note(host.state, around.moment(), freeze_after)
        except OSError as error:
            log.warning("it cannot be written down that the repository was looked at: %s", error)

    if freshness.read(host.state) is None:
        heard()  # silence is counted from the first try
    problem = ""
    try:
        around.look(heard)
    except HostctlError as error:
        problem = error.brief
        log.warning("%s", error.render())
    checked = freshness.read(host.state)
    if checked is not None and checked.frozen(around.moment()):
        log.error("no word from the repository that can be trusted since %s", checked.time)
    return problem


def _ask(host: Attended, at: Situation, boot: str, memory: Memory) -> Memory:
    """Ask the lock server for a turn, and return the memory after its answer."""
    lock = host.policy.lock
    if lock is None:
        raise ValueError("a lock server is asked, and none is declared")
    identity = fleet_lock.identity(host.machine_id)
    try:
        fleet_lock.take(host.state, Turn(url=str(lock.url), group=str(lock.group), id=identity, boot=boot))
    except HostctlError as error:
        log.warning("%s", error.render())
        return rules.refused(memory, at, error.brief)
    return replace(memory, lock_refusals=0, lock_retry=0.0, lock_said="")
