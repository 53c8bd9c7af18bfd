"""Results of fault runs: one JSON object a line, appended, so that figures add up over runs and seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl_qemu.checker import Problem, Verdict

from hostctl.cli.tables import table

KINDS = ("old", "new", "neither")
HEAD = ("FAULT", "STATES", "DISTINCT", "OLD", "NEW", "NEITHER", "FELL BACK", "BROKEN", "BOOTED", "RETRIED", "FAILED")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What became of one fault: judged offline, booted, or both in two rows."""

    run: str
    """The recording."""
    group: str
    """What kind of fault, a line of the table."""
    name: str
    """The fault; with run, group and seed it names the same fault always."""
    seed: int
    kind: str
    """`old`, `new` or `neither`."""
    decisive: str = ""
    """What the verdict depends on, shortened: states with the same are the same to the checker."""
    fell_back: bool = False
    """The loader tried another release first, in vain."""
    problems: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    booted: bool = False
    retried: bool = False
    seconds: float = 0.0
    """From power on to a login."""
    working: float = 0.0
    """From power on to a workload that works."""

    @property
    def key(self) -> tuple[str, str, str, int, bool]:
        """Return what names the result."""
        return self.run, self.group, self.name, self.seed, self.booted


def judged(run: str, group: str, name: str, seed: int, verdict: Verdict, decisive: str) -> Row:
    """Return the row of a state that was judged offline."""
    return Row(
        run=run,
        group=group,
        name=name,
        seed=seed,
        kind=verdict.kind,
        decisive=decisive,
        fell_back=bool(verdict.failed_first),
        problems=pairs(verdict.problems),
        notes=verdict.notes,
    )


def pairs(problems: Iterable[Problem]) -> tuple[tuple[str, str], ...]:
    """Return problems as they are kept."""
    return tuple((problem.invariant, problem.text) for problem in problems)


class Results:
    """The results in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[tuple[str, str, str, int, bool], Row] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            document = json.loads(line)
            problems = tuple((invariant, text) for invariant, text in document.pop("problems"))
            row = Row(**{**document, "problems": problems, "notes": tuple(document["notes"])})
            self.rows[row.key] = row

    def add(self, row: Row) -> None:
        """Keep a result; one that is there already stays."""
        if row.key in self.rows:
            return
        self.rows[row.key] = row
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def of(self, group: str) -> tuple[Row, ...]:
        """Return the results of a kind of fault."""
        return tuple(row for row in self.rows.values() if row.group == group)

    @property
    def broken(self) -> tuple[Row, ...]:
        """Return the results in which an invariant does not hold."""
        return tuple(row for row in self.rows.values() if row.problems)


def figures(rows: Sequence[Row]) -> dict[str, int]:
    """Return the figures of one kind of fault."""
    offline, booted = [row for row in rows if not row.booted], [row for row in rows if row.booted]
    counts = {kind: sum(row.kind == kind for row in offline or booted) for kind in KINDS}
    return {
        "states": len(offline or booted),
        "distinct": len({row.decisive for row in offline}),
        **counts,
        "fell_back": sum(row.fell_back for row in offline),
        "broken": sum(bool(row.problems) for row in offline),
        "booted": len(booted),
        "retried": sum(row.retried for row in booted),
        "failed": sum(bool(row.problems) for row in booted),
    }


def report(results: Results) -> str:
    """Return the table, the times to recover, and every result in which an invariant does not hold."""
    groups = sorted({row.group for row in results.rows.values()})
    lines = [tuple(map(str, (group, *figures(results.of(group)).values()))) for group in groups]
    text = [table(HEAD, lines)]
    times = sorted(row.working for row in results.rows.values() if row.booted and row.working)
    if times:
        p95 = times[min(len(times) - 1, round(0.95 * len(times)))]
        text.append(
            f"power on to a working workload: median {statistics.median(times):.0f} s, p95 {p95:.0f} s, "
            f"longest {times[-1]:.0f} s ({len(times)} boots)"
        )
    for row in results.broken:
        text += [f"{row.run} {row.group} {row.name}: {invariant}: {said}" for invariant, said in row.problems]
    return "\n".join(text)
