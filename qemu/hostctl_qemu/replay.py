"""The disks that a power cut may leave, made from the log of what a guest wrote.

What was completed before a flush is on the medium; of what came after the last flush, any part may be, in any order,
and one write of it may be torn. So a crash state is a place in the log, and which of the unflushed writes arrived.
All choices come from a seed. Limits: the log orders requests by when QEMU got them, so a write that was still under
way when a flush was asked for counts as flushed here; whoever needed it there waited for it first, as file systems do.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl_qemu.blocklog import Request
from hostctl_qemu.view import DiskView

Kind = Literal["flush", "cut", "prefix", "drop", "subset", "torn"]
SECTORS = (512, 4096)
EXHAUSTIVE = 64
"""Unflushed writes up to which each is cut after, and each is lost alone, where it matters."""
CHECKPOINT = 256
CLUSTER = 64 << 10
MIX: tuple[Kind, ...] = ("prefix", "drop", "subset", "subset", "torn")

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrashState:
    """Which requests of a log reached the medium."""

    kind: Kind
    durable: int
    """All before this one did."""
    kept: tuple[int, ...] = ()
    """Of those after it, these did."""
    torn: tuple[int, tuple[Range, ...]] | None = None
    """Of one more, only these ranges of its bytes did."""

    @property
    def name(self) -> str:
        """Return what people call it: the same name is the same state of the same log."""
        size = f" kept {len(self.kept)}" if self.kept else ""
        torn = f" torn {self.torn[0]}" if self.torn else ""
        return f"{self.kind} at {self.durable}{size}{torn}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """The writes between two flushes."""

    start: int
    """Number of the first request after the flush."""
    writes: tuple[int, ...]
    focus: bool
    """One of them touches a range that decides what is booted."""


def epochs(requests: Sequence[Request], focus: Sequence[Range]) -> tuple[Epoch, ...]:
    """Return a log's epochs, those without writes left out.

    Args:
        requests: the whole log.
        focus: ranges of the disk, start and end, that decide what is booted.
    """
    found: list[Epoch] = []
    start, writes = 0, list[Request]()
    for request in [*requests, None]:
        if request is not None and request.length:
            writes.append(request)
        if request is None or request.flush:
            if writes:
                matters = any(write.touches(*place) for write in writes for place in focus)
                found.append(Epoch(start=start, writes=tuple(write.index for write in writes), focus=matters))
            start, writes = (request.index + 1 if request else 0), []
    return tuple(found)


def crash_states(
    requests: Sequence[Request], wanted: int, seed: int, focus: Sequence[Range] = ()
) -> tuple[CrashState, ...]:
    """Return different crash states of a log in the order of the log, at least one at every flush.

    Args:
        requests: the whole log.
        wanted: how many; every flush comes first, then what decides booting exhaustively, then chance.
        seed: decides the choices.
        focus: ranges of the disk that decide what is booted.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    every = epochs(requests, focus)
    states = {CrashState(kind="flush", durable=epoch.start): None for epoch in every}
    states[CrashState(kind="flush", durable=len(requests))] = None
    systematic = [state for epoch in every if epoch.focus for state in _systematic(epoch)]
    chance.shuffle(systematic)
    left = max(0, wanted - len(states))
    states.update(dict.fromkeys(systematic[: left // 2]))
    pool = [epoch for epoch in every if epoch.focus] or list(every)
    attempts = 20 * wanted  # a short log has only so many states
    while len(states) < wanted and attempts and pool:
        attempts -= 1
        epoch = chance.choice(pool if chance.random() < 0.8 else every)
        states[_random(epoch, requests, chance)] = None
    return tuple(sorted(states, key=lambda state: (state.durable, state.kept[-1:], state.name)))


def _systematic(epoch: Epoch) -> Iterator[CrashState]:
    writes = epoch.writes
    for index in range(min(len(writes), EXHAUSTIVE)):
        yield CrashState(kind="prefix", durable=epoch.start, kept=writes[: index + 1])
        if len(writes) > 1:
            yield CrashState(kind="drop", durable=epoch.start, kept=writes[:index] + writes[index + 1 :])


def _random(epoch: Epoch, requests: Sequence[Request], chance: random.Random) -> CrashState:
    writes, kind = epoch.writes, chance.choice(MIX)
    if kind == "prefix":
        return CrashState(kind=kind, durable=epoch.start, kept=writes[: chance.randint(1, len(writes))])
    if kind == "drop":
        lost = chance.randrange(len(writes))
        return CrashState(kind=kind, durable=epoch.start, kept=writes[:lost] + writes[lost + 1 :])
    share = chance.random()
    kept = tuple(write for write in writes if chance.random() < share)
    torn = chance.choice(writes)
    if kind == "subset" or requests[torn].length <= SECTORS[0] or requests[torn].discard:
        return CrashState(kind="subset", durable=epoch.start, kept=kept)
    ranges = tuple(_tear(requests[torn].length, chance))
    return CrashState(
        kind="torn", durable=epoch.start, kept=tuple(write for write in kept if write != torn), torn=(torn, ranges)
    )


def _tear(length: int, chance: random.Random) -> Iterator[Range]:
    """Return the parts of a torn write that arrived: its head, or any of its sectors."""
    sector = chance.choice([size for size in SECTORS if size < length])
    if chance.random() < 0.5:
        yield 0, chance.randrange(sector, length, sector)
        return
    for start in range(0, length, sector):
        if chance.random() < 0.5:
            yield start, min(start + sector, length)


class Replay:
    """Makes the disks of crash states.

    Args:
        base: the disk before the first request.
        log: the log's file.
        requests: what is in it.
    """

    def __init__(self, base: DiskView, log: Path, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._file = base.files.add(log)
        self._points = [0]
        self._disks = [base.fork()]

    def disk(self, state: CrashState) -> DiskView:
        """Return the disk of a crash state; it may be written to."""
        disk = self._at(state.durable).fork()
        for index in state.kept:
            self._apply(disk, self.requests[index])
        if state.torn is not None:
            request = self.requests[state.torn[0]]
            for start, end in state.torn[1]:
                disk.write(request.start + start, end - start, self._file, request.data + start)
        return disk

    def _at(self, durable: int) -> DiskView:
        """Return the disk after so many requests, going on from the nearest one that is kept."""
        place = bisect_right(self._points, durable) - 1
        disk = self._disks[place].fork()
        for index in range(self._points[place], durable):
            self._apply(disk, self.requests[index])
            if index + 1 == self._points[-1] + CHECKPOINT:
                self._points.append(index + 1)
                self._disks.append(disk.fork())
        return disk

    def _apply(self, disk: DiskView, request: Request) -> None:
        if request.discard:  # a qcow2 disk gives up whole clusters only
            start = -(-request.start // CLUSTER) * CLUSTER
            end = (request.start + request.length) // CLUSTER * CLUSTER
            disk.write(start, max(0, end - start), 0, 0)
        else:
            disk.write(request.start, request.length, self._file, request.data)


def requests_before(requests: Sequence[Request], log_bytes: int) -> int:
    """Return how many requests were in a log when it had this length."""
    return bisect_right([request.end for request in requests], log_bytes)


def cut_states(positions: Iterable[int]) -> tuple[CrashState, ...]:
    """Return the states in which exactly the first so many requests reached the medium."""
    return tuple(CrashState(kind="cut", durable=position) for position in sorted(positions))
