"""What an agent that was killed left half written or half removed; told by names alone, and it leads nowhere.

The next agent removes it when it starts, unless somebody else changes the machine, who may be at it. What a pull
brought is none of this: the next try goes on there.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hostctl.agent import apply as transaction
from hostctl.image import retention
from hostctl.layout import HostLayout


def find(layout: HostLayout) -> list[Path]:
    """Return files and folders that lead nowhere, of what is written with the machine's write lock held."""
    state = layout.state
    written = [path for name in ("pending", "current") for path in state.glob(f".{name}.*.tmp")]
    return [*layout.generations.glob("*.tmp"), *written, *retention.unfinished(layout.images)]


def remove(layout: HostLayout) -> None:
    """Remove them, as far as the disk lets it."""
    if not find(layout):
        return  # nobody is kept from the lock
    with suppress(transaction.BusyError, OSError), transaction.lock(layout):
        retention.discard(find(layout))
