"""What an agent that was killed left half written or half removed; told by names alone, and it leads nowhere.

The next agent removes it when it starts, unless somebody else changes the machine, who may be at it. What a pull
brought is none of this: the next try goes on there.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hostctl.agent import exclusive
from hostctl.image import registry, retention
from hostctl.layout import HostLayout


def find(layout: HostLayout) -> list[Path]:
    """Return files and folders that lead nowhere, of what is written with the machine's write lock held."""
    written = (layout.state / "pending", layout.current, layout.changing_network)
    half = [path for each in written for path in each.parent.glob(f".{each.name}.*.tmp")]
    return [*layout.generations.glob("*.tmp"), *half, *retention.unfinished(layout.images)]


def own(layout: HostLayout) -> list[Path]:
    """Return those of what only an agent writes, without the lock; none does before it answers."""
    half = [path for folder in (layout.secrets, layout.credentials) for path in folder.glob(".*.tmp")]
    half += layout.state.glob(f".{layout.refused_images.name}.*.tmp")
    return [*half, *registry.dead(layout.runtime / "registries")]


def remove(layout: HostLayout) -> None:
    """Remove all of them, as far as the disk lets it."""
    with suppress(OSError):
        retention.discard(own(layout))
    if not find(layout):
        return  # nobody is kept from the lock
    with suppress(exclusive.BusyError, OSError), exclusive.lock(layout):
        retention.discard(find(layout))
