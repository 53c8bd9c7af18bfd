"""What an unattended host does next: looks for a release, waits, warns, takes its turn, restarts. Pure.

:func:`decide` gets all there is to know as values and gives an action with what to remember; whoever carries actions
out calls it again until the action is to wait. Releases are looked for and loaded at any time, only restarts keep to
the policy. Spans are measured by a clock that nobody sets (CLOCK_BOOTTIME); the time of day counts for windows alone.

A restart is due once a release is staged and its moment has come (the window, the host's place in the spread). Then, in
this order: inhibitors hold it back for ``delay`` at most, the lock server agrees, people at terminals have had their
notice. Whenever it stops being due, it is called off: people are told, the turn is given back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from hostctl.config.host import UpdatePolicy
from hostctl.config.quantities import Duration
from hostctl.update import window

CHECK_SECONDS = 3600.0
"""Between two looks at the repository."""
INHIBITED_SECONDS = 30.0
"""Between two looks at what holds a restart back."""
LAST_NOTICE = 60.0
"""People are warned a second time so many seconds before the restart."""
_FIRST_RETRY = 30.0
_LAST_RETRY = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The host at a moment."""

    now: datetime
    """Time of day, aware."""
    uptime: float
    """Seconds since the boot, CLOCK_BOOTTIME."""
    share: float
    """This host's place among all, from 0 to 1; see :func:`share`."""
    held: str = ""
    """Why updates are on hold; empty if they are not."""
    staged: str = ""
    """Version of the release that the next boot starts; empty if that is the running one."""
    inhibitors: tuple[str, ...] = ()
    """Who holds a restart back, and why."""
    terminals: int = 0
    """Terminals with people."""
    locked: bool = False
    """The lock server has agreed to a restart of this boot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What is remembered from one decision to the next, within a boot. Times are as :attr:`Situation.uptime`."""

    checked: float | None = None
    """When the repository was last looked at."""
    staged: str = ""
    """The release that the rest is about."""
    staged_since: float = 0.0
    due_since: float | None = None
    """When its restart was due for the first time."""
    warned_since: float | None = None
    """When people were told of a restart that is still to come."""
    warnings: int = 0
    """How often they were told."""
    lock_refusals: int = 0
    """In a row."""
    lock_retry: float = 0.0
    """When the lock server may be asked again."""
    lock_said: str = ""
    """Its last refusal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Look for a newer release, and load and stage it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Decide again in ``seconds``, or when something happens."""

    seconds: float
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Warn:
    """Tell people at terminals that the host restarts in ``left`` seconds."""

    left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AskLock:
    """Ask the lock server for this host's turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOff:
    """The restart that was announced does not come now: tell people, give the turn back."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """Restart now."""

    despite: tuple[str, ...] = ()
    """Inhibitors that held it back as long as they may."""


Action: TypeAlias = Check | Wait | Warn | AskLock | CallOff | Restart


def share(machine_id: str) -> float:
    """Return a host's place among all, from 0 up to but not 1, the same for ever.

    Args:
        machine_id: 32 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{machine_id}\0restart".encode()).digest()
    return int.from_bytes(digest[:6]) / (1 << 48)


def decide(policy: UpdatePolicy, zone: ZoneInfo, at: Situation, memory: Memory) -> tuple[Action, Memory]:
    """Return what to do next and what to remember.

    Args:
        policy: the declared one.
        zone: time zone of its windows.
        at: the host now.
        memory: what the last decision of this boot left; a new one in a new boot.
    """
    if at.staged != memory.staged:
        kept = replace(Memory(), checked=memory.checked, warned_since=memory.warned_since)
        memory = replace(kept, staged=at.staged, staged_since=at.uptime)
    early = _early(policy, zone, at, memory)
    if early is not None and (at.locked or memory.warned_since is not None):
        return CallOff(why=early.why), replace(memory, warned_since=None, warnings=0)
    if early is None:
        memory = memory if memory.due_since is not None else replace(memory, due_since=at.uptime)
        action, memory = _due(policy, at, memory)
    else:
        action = early
    if not isinstance(action, Wait) or at.locked or memory.warned_since is not None:
        return action, memory
    if at.held or not policy.unattended:
        return action, memory
    # However long something else keeps the host waiting, it looks for releases.
    next_check = 0.0 if memory.checked is None else memory.checked + CHECK_SECONDS - at.uptime
    if next_check <= 0:
        return Check(), replace(memory, checked=at.uptime)
    # The difference of two large numbers may come out a little above what was added.
    return replace(action, seconds=min(action.seconds, next_check, CHECK_SECONDS)), memory


def _early(policy: UpdatePolicy, zone: ZoneInfo, at: Situation, memory: Memory) -> Wait | None:
    """Return why a restart is not due, and when that changes; none if it is."""
    if not policy.unattended:
        return Wait(seconds=CHECK_SECONDS, why="updates are taken by hand")
    if at.held:
        return Wait(seconds=CHECK_SECONDS, why=at.held)
    if not at.staged:
        return Wait(seconds=CHECK_SECONDS, why="no newer release is staged")
    if policy.windows:
        jitter = float(policy.jitter)
        opening = window.allowed(policy.windows, zone, at.now, jitter=jitter, share=at.share)
        if opening is None:
            return Wait(seconds=CHECK_SECONDS, why="no window ever opens again")
        left, moment = opening.start - at.now, opening.start.astimezone(zone)
        why = f"release {at.staged} waits for its window, {moment:%a %Y-%m-%d %H:%M %Z}"
        return Wait(seconds=left.total_seconds(), why=why) if left > timedelta() else None
    wait = memory.staged_since + at.share * float(policy.jitter) - at.uptime
    return Wait(seconds=wait, why=f"release {at.staged} waits for its turn in the spread") if wait > 0 else None


def _due(policy: UpdatePolicy, at: Situation, memory: Memory) -> tuple[Action, Memory]:
    """Decide about a restart that is due; ``memory.due_since`` is set."""
    left = (memory.due_since or 0.0) + float(policy.delay) - at.uptime
    if at.inhibitors and left > 0:
        why = f"held back by {_listed(at.inhibitors)}, for {span(left)} at most"
        return Wait(seconds=min(INHIBITED_SECONDS, left), why=why), memory
    if policy.strategy == "lock" and not at.locked:
        if (again := memory.lock_retry - at.uptime) > 0:
            return Wait(seconds=again, why=f"the lock server has not agreed: {memory.lock_said}"), memory
        return AskLock(), memory
    if at.terminals:
        return _noticed(policy, at, memory)
    return Restart(despite=at.inhibitors), memory


def _noticed(policy: UpdatePolicy, at: Situation, memory: Memory) -> tuple[Action, Memory]:
    """Warn people, once or twice, and wait out their notice."""
    notice = float(policy.notice)
    since = at.uptime if memory.warned_since is None else memory.warned_since
    left = since + notice - at.uptime
    if left <= 0:
        return Restart(despite=at.inhibitors), memory
    if memory.warned_since is None:
        return Warn(left=left), replace(memory, warned_since=since, warnings=1)
    second = notice > LAST_NOTICE and memory.warnings < 2
    if second and left <= LAST_NOTICE:
        return Warn(left=left), replace(memory, warnings=2)
    pause = left - LAST_NOTICE if second else left
    return Wait(seconds=pause, why=f"people are warned, the restart comes in {span(left)}"), memory


def refused(memory: Memory, at: Situation, said: str) -> Memory:
    """Return the memory after the lock server did not agree: the next question comes later each time.

    Args:
        memory: the one with which it was asked.
        at: the host when it was asked.
        said: its answer, or what became of the question.
    """
    pause = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(memory.lock_refusals, 10)) * (0.5 + at.share)
    return replace(memory, lock_refusals=memory.lock_refusals + 1, lock_retry=at.uptime + pause, lock_said=said)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def span(seconds: float) -> str:
    """Return a time as people read it, in whole seconds and, when it is long, minutes."""
    whole = max(1, round(seconds))
    return str(Duration(whole if whole < 120 else -(-whole // 60) * 60))
