"""Which user ids a workload's processes have on the host: a range of 65536 for each, that nobody else has.

Pure. The numbers of ranges are kept in the generation's record, so a workload keeps its range through every change, and
the range of one that is no longer declared is not given to another: what it left on a disk stays nobody's. Only those
that were run under a name for once give theirs up, or there would be none left some day.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

from hostctl.errors import HostctlError

FIRST_ID = 0x10000000
RANGE = 65536
LAST_ID = 0x6FFFFFFF  # the end of what systemd's UIDS-GIDS sets aside for containers
RANGES = (LAST_ID + 1 - FIRST_ID) // RANGE


class RangesExhaustedError(HostctlError):
    """More workloads were declared on this machine than there are ranges of user ids."""

    id = "ranges-exhausted"


def allocate(names: Collection[str], former: Mapping[str, int], spent: Collection[str] = ()) -> dict[str, int]:
    """Return the number of each workload's range: its former one, else the lowest that nobody has.

    Args:
        names: the declared workloads, and the replicas of each but the first, which has its workload's.
        former: the numbers of the former generation, those of removed workloads too.
        spent: who of those gives its range up, unless it is declared.

    Raises:
        RangesExhaustedError: all ranges are taken.
    """
    ranges = {name: number for name, number in former.items() if name not in spent or name in names}
    taken = frozenset(ranges.values())
    free = (number for number in itertools.count() if number not in taken)
    for name in sorted(names):
        if name not in ranges:
            ranges[name] = next(free)
    if max(ranges.values(), default=0) >= RANGES:
        raise RangesExhaustedError(f"all {RANGES} ranges of user ids are taken")
    return ranges


def range_start(number: int) -> int:
    """Return the first user id, on the host, of range ``number``."""
    return FIRST_ID + number * RANGE
