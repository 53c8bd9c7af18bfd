"""Fills the partitions of a slot and proves what they hold, from the disk and not from memory.

Works on block devices and on files that stand in for them. Which slot it is, and what it is called, is not known here.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from hostctl.boot.slots import Slot
from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.repository.release import BLOCK, Release
from hostctl.run import run

VERITY_SECONDS = 1800.0
_BLKFLSBUF = 0x1261  # linux/fs.h: write and forget the buffers of a block device
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


class PartitionError(HostctlError):
    """A partition cannot be read or written."""

    id = "partition-write"


class SlotTooSmallError(HostctlError):
    """The release does not fit this host's partitions."""

    id = "slot-too-small"


class RootMismatchError(HostctlError):
    """What is on the disk is not the release that was signed."""

    id = "root-mismatch"


def open_partition(partition: Path) -> int:
    """Open a partition for reading and writing; the kernel refuses one that is mounted or mapped.

    Raises:
        PartitionError: it cannot be opened.
    """
    # O_EXCL is what makes the kernel refuse. Never O_CREAT, a device must exist.
    try:
        return os.open(partition, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise PartitionError(f"cannot open {partition} for writing", details=str(error)) from error


def flush(partition: Path) -> None:
    """Write what the kernel still holds of a partition to the disk, and forget it: who reads next reads the disk.

    Raises:
        PartitionError: the disk did not take it.
    """
    try:
        descriptor = os.open(partition, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if stat.S_ISBLK(os.fstat(descriptor).st_mode):
                fcntl.ioctl(descriptor, _BLKFLSBUF, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise PartitionError(f"{partition} cannot be flushed", details=str(error)) from error


def holds(partition: Path, data: bytes) -> bool:
    """Tell whether a partition begins with ``data`` and is zero after it, up to the next 64 KiB.

    Raises:
        PartitionError: it cannot be read.
    """
    try:
        with partition.open("rb", buffering=0) as file:
            found = file.read(len(data) + (64 << 10))
    except OSError as error:
        raise PartitionError(f"cannot read {partition}", details=str(error)) from error
    return found.startswith(data) and not any(found[len(data) :])


def write_padded(data: bytes, partition: Path, size: int) -> None:
    """Write ``data`` and then zeros up to ``size`` bytes, flushed.

    Raises:
        PartitionError: it does not fit, or the partition cannot be written.
    """
    if len(data) > size:
        raise PartitionError(f"{len(data)} bytes do not fit {partition} of {size}")
    descriptor = open_partition(partition)
    try:
        for start in range(0, size, CHUNK):
            _write_all(descriptor, data[start : start + CHUNK].ljust(min(CHUNK, size - start), b"\0"))
    except OSError as error:
        raise PartitionError(f"cannot write {partition}", details=str(error)) from error
    finally:
        os.close(descriptor)
    flush(partition)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _tree_bytes(root_bytes: int) -> int:
    """Return the size of a hash tree: a superblock, then levels of 128 SHA-256 sums a block (veritysetup, format 1)."""
    blocks, level = 1, root_bytes // BLOCK
    while level > 1:
        level = -(-level // 128)
        blocks += level
    return max(blocks, 2) * BLOCK


def require_room(slot: Slot, sector: int, release: Release) -> None:
    """Do nothing if the release fits.

    Args:
        slot: where it goes.
        sector: bytes of the disk's sectors.
        release: the release.

    Raises:
        SlotTooSmallError: it does not fit.
    """
    needs = (
        (slot.root, release.root_bytes),
        (slot.verity, _tree_bytes(release.root_bytes)),
        (slot.signature, release.signature.bytes),
    )
    for part, wanted in needs:
        if wanted > part.size * sector:
            raise SlotTooSmallError(
                f"release {release.version} needs {wanted} bytes in {part.node}, which has {part.size * sector}",
                hint="partitions cannot grow by an update; reinstall the host with a larger limits.root",
            )


def make_tree(slot: Slot, release: Release, before_flush: Callable[[], None]) -> None:
    """Compute the hash tree of the root in the slot, write and flush it.

    Args:
        slot: whose root is complete.
        release: what the root must be.
        before_flush: called when the tree is written and not flushed.

    Raises:
        RootMismatchError: the root is another one.
        CommandError: veritysetup failed.
        PartitionError: the disk did not take the tree.
    """
    words = ["veritysetup", "format", "--hash=sha256", f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}"]
    words += [f"--data-blocks={release.root_bytes // BLOCK}", f"--salt={release.salt}", f"--uuid={release.uuid}"]
    printed = run([*words, slot.root.node, slot.verity.node], timeout=VERITY_SECONDS).text
    found = _ROOT_HASH.search(printed)
    if found is None or found[1] != release.root_hash:
        raise RootMismatchError(
            f"the root of release {release.version} on the disk is not the one that was signed", details=printed
        )
    before_flush()
    flush(slot.verity.node)


def verifies(slot: Slot, root_hash: str) -> str:
    """Read the root and its tree back; return why they do not belong to ``root_hash``, or nothing if they do."""
    words: list[str | Path] = ["veritysetup", "verify", slot.root.node, slot.verity.node, root_hash]
    done = run(words, timeout=VERITY_SECONDS, check=False)
    return "" if not done.status else done.stderr.decode("utf-8", "replace").strip() or "veritysetup refused it"


def verify(slot: Slot, release: Release, signature: bytes) -> None:
    """Prove that the disk holds the whole release.

    Raises:
        RootMismatchError: it does not.
        PartitionError: the disk cannot be read.
    """
    for part in (slot.root, slot.verity, slot.signature):
        flush(part.node)
    wrong = verifies(slot, release.root_hash)
    if not wrong and not holds(slot.signature.node, signature):
        wrong = "the signature reads back wrong"
    if wrong:
        raise RootMismatchError(
            f"release {release.version} reads back wrong from the disk",
            details=wrong,
            hint="the disk may be failing; nothing was changed that boots, try again",
        )
