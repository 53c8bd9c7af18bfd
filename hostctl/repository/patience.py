"""How long a download may take: a budget that waiting uses up and bytes bring back.

Pure but for the clock, which is monotonic and can be given; a jump of the wall clock changes nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hostctl.repository.errors import SlowError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How patient downloads are. Times are in seconds."""

    connect: float = 10.0
    """For one address of a host, until the connection stands."""
    silence: float = 15.0
    """Without a single byte, before the connection is given up."""
    patience: float = 45.0
    """That one download at one address may fall behind ``rate``, in all; see :class:`Meter`."""
    rate: float = 2048.0
    """Bytes a second below which a download uses up its patience."""
    attempts: int = 5
    """In a row that bring nothing, before an address is given up."""
    backoff: float = 0.5
    """First pause between attempts at most; doubles with each."""
    longest_pause: float = 20.0
    """Longest pause between attempts, also if the server asks for a longer one."""
    metadata: float = 300.0
    """For all metadata from one address."""
    redirects: int = 3


class Meter:
    """How long a download may still take.

    Waiting uses up patience, each byte brings back the time it may take at the minimum rate, never above the patience
    of the start. So a download of n bytes takes at most patience + n / rate, and one that stalls ends after patience.

    Args:
        limits: patience and rate.
        deadline: seconds after which it ends in any case.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, limits: Limits, *, deadline: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._credit = limits.patience
        self._deadline = float("inf") if deadline is None else deadline
        self._clock = clock
        self._spent = 0.0
        self._received = 0

    @property
    def left(self) -> float:
        """Return the seconds that may still be waited."""
        return min(self._credit, self._deadline - self._spent)

    def require(self) -> float:
        """Return what is left.

        Raises:
            SlowError: nothing is.
        """
        if self.left <= 0:
            raise SlowError(
                f"the repository is too slow: {self._received} bytes in {self._spent:.0f} s",
                details=f"less than {self._limits.rate:.0f} bytes a second for {self._limits.patience:.0f} s in all",
            )
        return self.left

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time until the block ends. What the consumer of bytes does in between is not the server's fault."""
        started = self._clock()
        try:
            yield
        finally:
            elapsed = self._clock() - started
            self._credit -= elapsed
            self._spent += elapsed

    def earn(self, count: int) -> None:
        """Note ``count`` bytes received."""
        self._received += count
        self._credit = min(self._limits.patience, self._credit + count / self._limits.rate)
