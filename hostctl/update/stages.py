"""The named stages of an update, in their order, and the edges at which each can be cut off.

Pure. The names are what `hostctl update --json`, the journal and the fault harness say, so their meaning never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

BEFORE = "before"
FIRST = "first"
MIDDLE = "middle"
LAST = "last"
AFTER = "after"


class Stage(StrEnum):
    """One step from a published release to a blessed one. The value is the word that people and programs see."""

    COUNT = "count"
    """The boot loader counts a try by renaming the entry; nothing of ours runs then."""
    METADATA = "metadata"
    """The repository's metadata are checked and kept."""
    START = "start"
    """That an update started is recorded, and what the other slot held stops being bootable."""
    ROOT = "root"
    """The root is written into the slot."""
    FLUSH = "flush"
    """The root is flushed to the disk."""
    TREE = "tree"
    """The hash tree is computed and written."""
    SIGNATURE = "signature"
    """The signature of the root hash is written."""
    VERIFY = "verify"
    """The slot is read back from the disk and compared with its hash tree and root hash."""
    LABEL = "label"
    """Labels and UUIDs of the slot are set in the partition table, the primary one before its backup."""
    KERNEL = "kernel"
    """The unified kernel image is written to a temporary file of the ESP."""
    COMMIT = "commit"
    """It is flushed and renamed: the commit point."""
    CLEAN = "clean"
    """Kernel images that no slot needs are removed."""
    REBOOT = "reboot"
    """The reboot is asked for."""
    TRIAL = "trial"
    """The new release boots for the first time and its health is judged."""
    BLESS = "bless"
    """The new release is found good, its boots are not counted any more."""


_BOTH = (BEFORE, AFTER)
_THREE = (BEFORE, MIDDLE, AFTER)

EDGES: Mapping[Stage, tuple[str, ...]] = {
    Stage.COUNT: (),
    Stage.METADATA: _BOTH,
    Stage.START: _BOTH,
    Stage.ROOT: (BEFORE, FIRST, MIDDLE, LAST, AFTER),
    Stage.FLUSH: _BOTH,
    Stage.TREE: _THREE,
    Stage.SIGNATURE: _BOTH,
    Stage.VERIFY: _BOTH,
    Stage.LABEL: _THREE,
    Stage.KERNEL: _THREE,
    Stage.COMMIT: _THREE,
    Stage.CLEAN: _BOTH,
    Stage.REBOOT: _BOTH,
    Stage.TRIAL: _BOTH,
    Stage.BLESS: _BOTH,
}
"""Where each stage can be stopped. ``first``, ``middle`` and ``last`` of the root are the blocks just written; the
middle of the table is between the primary and its backup, that of the commit after the rename and before its flush."""
