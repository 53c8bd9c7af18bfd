"""What the updater knows of the machine that it updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hostctl.update.stage_port import PORT


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateHost:
    """The machine that is updated: which release runs, and where things lie."""

    name: str
    version: str
    root_hash: str
    """Of the running root."""
    disk: Path
    """The disk with both slots, or an image with partition files beside it."""
    entries: Path
    """Folder of the unified kernel images, ``EFI/Linux`` of the ESP."""
    state: Path
    """hostctl's state folder."""
    runtime: Path = Path("/run/hostctl")
    """Folder for what does not outlive a boot."""
    machine_id: str = ""
    """What tells this machine from others, for its place in a rollout."""
    port: Path = PORT
    """Where a harness waits for the stages."""

    @property
    def history(self) -> Path:
        """The history file."""
        return self.state / "history.jsonl"

    @property
    def journal(self) -> Path:
        """The journal of the stages."""
        return self.state / "update.jsonl"
