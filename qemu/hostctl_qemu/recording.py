"""Follows one run of a machine whose disk writes are logged, so that its power can be cut afterwards at any moment.

What a power cut at a moment leaves is the disk before plus the log up to there: so one run stands for as many cuts as
one wants, at the edges of stages and at random times, each a state that :mod:`hostctl_qemu.replay` makes. What was
under way in the moment of the cut is what the replay's subsets of unflushed writes cover.
"""

from __future__ import annotations

import json
import random
import threading
import time
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl.durable import write_file
from hostctl_qemu.machine import Machine, MachineError
from hostctl_qemu.stage_port import Edge

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A named moment: seconds since the start, and how long the log was."""

    label: str
    seconds: float
    log_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """How a run went: its named moments, and the length of the log over time."""

    marks: tuple[Mark, ...]
    samples: tuple[tuple[float, int], ...]

    def mark(self, label: str) -> Mark:
        """Return the first moment of this name.

        Raises:
            KeyError: there is none.
        """
        found = next((mark for mark in self.marks if mark.label == label), None)
        if found is None:
            raise KeyError(label)
        return found

    def between(self, start: Mark, end: Mark) -> tuple[Mark, ...]:
        """Return the named moments from one to another, both included."""
        return tuple(mark for mark in self.marks if start.seconds <= mark.seconds <= end.seconds)

    def at(self, seconds: float) -> int:
        """Return how long the log was at a time."""
        place = bisect_right(self.samples, seconds, key=lambda sample: sample[0])
        return self.samples[max(place - 1, 0)][1]

    def random_cuts(self, start: Mark, end: Mark, count: int, seed: int) -> tuple[tuple[float, int], ...]:
        """Return ``count`` times, evenly likely between two moments, each with the log's length then."""
        chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
        times = sorted(chance.uniform(start.seconds, end.seconds) for _ in range(count))
        return tuple((seconds, self.at(seconds)) for seconds in times)

    def save(self, path: Path) -> None:
        """Write it to a file."""
        write_file(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Return what :meth:`save` wrote."""
        document = json.loads(path.read_bytes())
        return cls(
            marks=tuple(Mark(**mark) for mark in document["marks"]),
            samples=tuple((float(seconds), int(size)) for seconds, size in document["samples"]),
        )


class Recorder:
    """Records a machine that has a log and a stage port, from now until :meth:`stop`.

    Every edge of a stage becomes a mark ``PREFIX STAGE EDGE``, taken while the guest waits there.

    Raises:
        MachineError: the machine's disk is not logged, or it has no stage port.
    """

    def __init__(self, machine: Machine, prefix: str) -> None:
        if machine.config.attachment.log is None:
            raise MachineError("the machine's writes are not logged")
        self.prefix = prefix
        self._log = machine.config.attachment.log
        self._start = time.monotonic()
        self._marks: list[Mark] = []
        self._samples: list[tuple[float, int]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="recorder", daemon=True)
        machine.stages.watcher = self._reached
        self._thread.start()

    def _sample(self) -> None:
        last = -1
        while not self._stopped.wait(SAMPLE_SECONDS):
            seconds, size = time.monotonic() - self._start, self._log.stat().st_size
            if size != last:
                self._samples.append((seconds, size))
                last = size

    def _reached(self, edge: Edge) -> None:
        self.mark(str(edge))

    def mark(self, label: str) -> Mark:
        """Name this moment."""
        size = self._log.stat().st_size
        mark = Mark(label=f"{self.prefix} {label}", seconds=time.monotonic() - self._start, log_bytes=size)
        self._marks.append(mark)
        return mark

    def stop(self) -> Recording:
        """Return the recording."""
        self._stopped.set()
        self._thread.join()
        end = (time.monotonic() - self._start, self._log.stat().st_size)
        return Recording(marks=tuple(self._marks), samples=(*self._samples, end))
