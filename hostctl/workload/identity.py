"""Which user ids a workload's processes have on the host: a range of 65536 for each, that nobody else ever gets.

Pure. The numbers of ranges are kept in the generation's record, so a workload keeps its range through every change, and
the range of one that is no longer declared is never given to another: what it left on a disk stays nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hostctl.errors import HostctlError

FIRST_ID = 0x10000000
RANGE = 65536
LAST_ID = 0x6FFFFFFF  # the end of what systemd's UIDS-GIDS sets aside for containers
RANGES = (LAST_ID + 1 - FIRST_ID) // RANGE


class RangesExhaustedError(HostctlError):
    """More workloads were ever declared on this machine than there are ranges of user ids."""

    id = "ranges-exhausted"


def allocate(names: Iterable[str], former: Mapping[str, int]) -> dict[str, int]:
    """Return the number of each workload's range: its former one, else the next that nobody ever had.

    Args:
        names: the declared workloads, and the replicas of each but the first, which has its workload's.
        former: the numbers of the former generation, those of removed workloads too.

    Raises:
        RangesExhaustedError: all ranges are taken.
    """
    ranges = dict(former)
    following = max(former.values(), default=-1) + 1
    for name in sorted(names):
        if name not in ranges:
            ranges[name] = following
            following += 1
    if following > RANGES:
        raise RangesExhaustedError(f"all {RANGES} ranges of user ids are taken")
    return ranges


def range_start(number: int) -> int:
    """Return the first user id, on the host, of range ``number``."""
    return FIRST_ID + number * RANGE
