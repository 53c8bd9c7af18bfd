"""What the agent says that it did. Each command that asks it loads this, so it knows nothing of declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["create", "change", "remove"]
Area = Literal[
    "release",
    "hostname",
    "timezone",
    "network",
    "workload-network",
    "user",
    "file",
    "sysctl",
    "update",
    "auto-update",
    "metrics",
    "run",
    "build",
    "health",
    "registry",
    "images",
    "volume",
    "config",
    "secret",
    "workload",
    "replicas",
]

Cause = Literal["declared", "image", "required"]
"""declared: something is declared in another way, or the release is another; image: only the image under the same name
is another; required: only what it requires changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One thing that applying does."""

    kind: Kind
    area: Area
    subject: str
    reason: str
    cause: Cause = "declared"

    def __str__(self) -> str:
        """Return the line that a terminal shows."""
        mark = {"create": "+", "change": "~", "remove": "-"}[self.kind]
        return f"{mark} {self.area} {self.subject}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What applying did."""

    generation: int
    former: int | None
    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What was copied: how many entries, and the first of those that cannot be, as sockets and devices."""

    files: int
    skipped: tuple[str, ...] = ()
