"""Which disks of a recorded run are looked at: cuts at the edges of stages, at random times, and replayed subsets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hostctl_qemu.blocklog import Request
from hostctl_qemu.checker import TABLE_BYTES, TYPE_ESP, Checker, Expectation, deciding
from hostctl_qemu.gpt import read_gpt
from hostctl_qemu.replay import CrashState, crash_states, requests_before

from hostctl_lab.fault_results import Results, Row, judged
from hostctl_lab.scenario import Direction, Scenario

COUNT = "count"
BACKUP_BYTES = 33 * 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A state of the disk and what may be found on it."""

    group: str
    name: str
    seed: int
    state: CrashState
    wanted: Expectation


def focus(scenario: Scenario) -> tuple[tuple[int, int], ...]:
    """Return the ranges that decide what is booted and are small enough to be tried exhaustively."""
    disk = scenario.replay.disk(CrashState(kind="cut", durable=0))
    esp = next(part for part in read_gpt(disk).partitions if part.type == TYPE_ESP)
    return (0, TABLE_BYTES), (disk.size - BACKUP_BYTES, disk.size), (esp.start, esp.start + esp.size)


def _touching(requests: Iterable[Request], ranges: Iterable[tuple[int, int]]) -> Iterator[Request]:
    places = tuple(ranges)
    return (request for request in requests if any(request.touches(*place) for place in places))


def stage_cases(scenario: Scenario) -> Iterator[Case]:
    """Return a case at every edge of every stage, in both directions.

    The boot loader tells nobody when it counts a try. Its edges are the writes to the ESP between the last edge before
    the restart and the first one after it.
    """
    esp = focus(scenario)[2:]
    for direction in scenario.directions:
        marks = scenario.recording.between(direction.begin, direction.end)
        for mark in marks:
            yield _cut(scenario, direction, "stages", mark.label, mark.log_bytes)
        names = [mark.label.removeprefix(f"{direction.label} ") for mark in marks]
        first = next((index for index, name in enumerate(names) if name.startswith("trial")), len(names) - 1)
        window = [
            request
            for request in _touching(scenario.requests, esp)
            if marks[first - 1].log_bytes < request.end <= marks[first].log_bytes
        ]
        for number, request in enumerate(window):
            yield _cut(scenario, direction, "stages", f"{direction.label} {COUNT} write {number}", request.end)


def random_cases(scenario: Scenario, count: int, seed: int) -> Iterator[Case]:
    """Return cuts at times that are evenly likely between an update's begin and its end, half in each direction."""
    directions = scenario.directions
    for index, direction in enumerate(directions):
        share = count // len(directions) + (index < count % len(directions))
        for seconds, size in scenario.recording.random_cuts(direction.begin, direction.end, share, seed):
            yield _cut(scenario, direction, "cuts", f"{direction.label} at {seconds:.3f} s", size, seed)


def _cut(scenario: Scenario, direction: Direction, group: str, name: str, size: int, seed: int = 0) -> Case:
    state = CrashState(kind="cut", durable=requests_before(scenario.requests, size))
    return Case(group=group, name=name, seed=seed, state=state, wanted=direction.expectation)


def replay_cases(scenario: Scenario, count: int, seed: int) -> Iterator[Case]:
    """Return crash states over both updates."""
    for state in crash_states(scenario.requests, count, seed, focus(scenario)):
        size = scenario.requests[state.durable - 1].end if state.durable else 0
        direction = next((each for each in scenario.directions if size <= each.end.log_bytes), scenario.directions[-1])
        parts = repr((state.kept, state.torn)).encode()
        name = f"{state.name} {hashlib.sha256(parts).hexdigest()[:8]}"
        yield Case(group="replays", name=name, seed=0, state=state, wanted=direction.expectation)


def judge_all(scenario: Scenario, checker: Checker, cases: Iterable[Case], results: Results) -> list[tuple[Case, Row]]:
    """Judge cases that have no result yet, and return all with their results."""
    run, done = scenario.folder.name, []
    for case in cases:
        key = (run, case.group, case.name, case.seed, False)
        if key not in results.rows:
            disk = scenario.replay.disk(case.state)
            verdict = checker.judge(disk, case.wanted)
            decisive = hashlib.sha256(repr(deciding(disk, read_gpt(disk))).encode()).hexdigest()[:16]
            results.add(judged(run, case.group, case.name, case.seed, verdict, decisive))
        done.append((case, results.rows[key]))
    return done


def choose_to_boot(done: list[tuple[Case, Row]], results: Results, count: int, seed: int) -> list[tuple[Case, Row]]:
    """Return cases to boot that were not booted yet: up to a third of those with something to note, the rest by chance.

    Cases that look alike to the checker are taken once, as long as there are others.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    left = [(case, row) for case, row in done if (row.run, row.group, row.name, row.seed, True) not in results.rows]
    chance.shuffle(left)
    noted = [pair for pair in left if pair[1].notes][: count // 3]
    seen: set[str] = set()
    fresh: list[tuple[Case, Row]] = []
    again: list[tuple[Case, Row]] = []
    for pair in [*noted, *(pair for pair in left if pair not in noted)]:
        (again if pair[1].decisive in seen else fresh).append(pair)
        seen.add(pair[1].decisive)
    return [*fresh, *again][:count]
