"""From a repository into a slot and the EFI system partition: the root and the kernel image of a release.

Whatever arrives is checked on the way; what the disk then holds is proved elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from hostctl.durable import sha256_file, sync_directory
from hostctl.repository.client import RepositoryClient
from hostctl.repository.whole import Release
from hostctl.update.esp import StateError
from hostctl.update.slot import RootMismatchError, flush
from hostctl.update.stages import FIRST, LAST, MIDDLE, Stage
from hostctl.update.steps import Steps
from hostctl.update.stream import copy, unpack


class _Marks:
    """Reaches the edges inside of a stage as its bytes go by."""

    def __init__(self, steps: Steps, stage: Stage, total: int, marks: dict[str, int]) -> None:
        self._steps, self._stage, self._total, self._left = steps, stage, total, dict(marks)

    def __call__(self, done: int) -> None:
        """Note that so many bytes are done."""
        self._steps.progress(self._stage, done, self._total)
        for edge in [edge for edge, at in self._left.items() if done >= at]:
            del self._left[edge]
            self._steps.reach(self._stage, edge)


def write_root(client: RepositoryClient, release: Release, partition: Path, steps: Steps) -> None:
    """Write the root into its partition, not flushed.

    Raises:
        PayloadError, StreamError: what arrived is not the root.
        PartitionError: the disk did not take it.
    """
    total = release.root.bytes
    marks = _Marks(steps, Stage.ROOT, total, {FIRST: 1, MIDDLE: total // 2, LAST: total})
    unpack(client.open(release.root), partition, release.root_bytes, marks)


def write_kernel(client: RepositoryClient, release: Release, path: Path, steps: Steps) -> None:
    """Write the kernel image to ``path``, flushed and read back.

    Raises:
        PayloadError: what arrived is not the kernel image.
        RootMismatchError: it reads back wrong.
        StateError: the EFI system partition did not take it.
    """
    total = release.uki.bytes
    marks = _Marks(steps, Stage.KERNEL, total, {MIDDLE: total // 2})
    try:
        copy(client.open(release.uki), path, marks)
        sync_directory(path.parent)
        flush(path)
        found = sha256_file(path)
    except OSError as error:
        raise StateError(
            f"cannot write the kernel image of release {release.version} to the ESP", details=str(error)
        ) from error
    if found != release.uki.sha256:
        raise RootMismatchError(f"the kernel image of release {release.version} reads back wrong from the ESP")
