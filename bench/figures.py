"""What a measurement prints: figures with their targets and ratios, and the conditions they were taken under.

Nothing here passes or fails: times of one machine are no test. A ratio compares two figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number: the median of ``samples`` where there are several; ``target`` is the most that it should be."""

    name: str
    value: float
    unit: str
    target: float | None = None
    samples: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The machine and how busy it was: processes waiting to run, averaged over one minute."""

    date: str
    processors: int
    machine: str
    load_before: float
    load_after: float
    details: tuple[str, ...] = ()


def load() -> float:
    """Return how many processes ran or waited to, averaged over the last minute."""
    return os.getloadavg()[0]


def conditions(load_before: float, *details: str) -> Conditions:
    """Return the conditions of a measurement that ends now.

    Args:
        load_before: :func:`load` from before it began.
        details: what else one has to know to read the figures.
    """
    return Conditions(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processors=os.cpu_count() or 1,
        machine=f"{platform.machine()}, Linux {platform.release()}",
        load_before=load_before,
        load_after=load(),
        details=details,
    )


def median(name: str, samples: Sequence[float], unit: str = "s", *, note: str = "") -> Figure:
    """Return the median of samples as a figure."""
    return Figure(name=name, value=statistics.median(samples), unit=unit, samples=tuple(samples), note=note)


def positive(text: str) -> int:
    """Return a number of times or things from a command line, for argparse.

    Raises:
        ArgumentTypeError: it is none, or less than 1.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def ratio(name: str, ours: float, theirs: float, *, target: float | None = None) -> Figure:
    """Return how much of ``theirs`` is ``ours``; both in the same unit."""
    return Figure(name=name, value=ours / theirs, unit="ratio", target=target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A measurement's result."""

    title: str
    figures: tuple[Figure, ...]
    conditions: Conditions
    lines: tuple[str, ...] = field(default=())
    ratios: Mapping[str, float | None] = field(default_factory=dict)
    """By name, for programs; none where there was nothing to compare with."""


def as_text(report: Report) -> str:
    """Return a report as a table for people."""
    width = max(len(figure.name) for figure in report.figures)
    lines = [report.title]
    lines += [_row(figure, width) for figure in report.figures]
    lines += [f"  {line}" for line in report.lines]
    state = report.conditions
    lines.append(
        f"  {state.date}; {state.processors} processors ({state.machine}); "
        f"load {state.load_before:.1f} before, {state.load_after:.1f} after"
    )
    lines += [f"  {detail}" for detail in state.details]
    return "\n".join(lines)


def _row(figure: Figure, width: int) -> str:
    digits = 0 if figure.unit in ("", "KiB") else 3 if figure.unit == "ratio" else 2 if figure.unit == "s" else 1
    text = f"  {figure.name:<{width}}  {figure.value:10.{digits}f} {figure.unit:<5}"
    if figure.target is not None:
        verdict = "within" if figure.value <= figure.target else "OVER"
        text += f"  {verdict} the target of {figure.target:g}"
    if len(figure.samples) > 1:
        text += f"  {min(figure.samples):.{digits}f} to {max(figure.samples):.{digits}f}, n={len(figure.samples)}"
    return text + (f"  {figure.note}" if figure.note else "")


def show(report: Report, *, as_json: bool) -> None:
    """Print a report, as a table or as one JSON document."""
    print(json.dumps(asdict(report), indent=1) if as_json else as_text(report))
