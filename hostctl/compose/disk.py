"""The disk image: a GPT with the EFI system partition and both slots, made without mounts or loop devices.

The state partition is not in it: a host makes it on its first boot, as large as its disk allows.
Sources: UAPI discoverable partitions specification (types), sfdisk(8), mtools(1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.boot.slots import EMPTY, LABEL_ESP, TYPE_ESP, TYPE_ROOT, TYPE_SIGNATURE, TYPE_VERITY, labels
from hostctl.compose.seal import Verity, derived_uuid
from hostctl.compose.tools import ToolsRoot
from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.run import run

MIB = 1 << 20
SECTOR = 512
SIGNATURE_SIZE = MIB


class DiskError(HostctlError):
    """Something does not fit its partition."""

    id = "disk-size"


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One partition: where it lies in bytes, what it is called, and the file it is filled from."""

    start: int
    size: int
    type: str
    label: str
    uuid: str
    content: Path | None = None


def verity_size(root_size: int) -> int:
    """Return the bytes to set aside for the hash tree of a root of ``root_size`` bytes: 1/64, in whole MiB.

    The tree takes 32 bytes a block of 4096 at the lowest level and 1/128 of that above it, so this is ample.
    """
    return max(8 * MIB, -(-root_size // 64 // MIB) * MIB)


def check_size(name: str, wanted: int, size: int, limit: str) -> None:
    """Refuse a content that is larger than its partition.

    Args:
        name: what it is called in the error.
        wanted: its bytes.
        size: the partition's bytes.
        limit: the key of release.yaml that sets the size.

    Raises:
        DiskError: it does not fit.
    """
    if wanted > size:
        raise DiskError(
            f"{name} has {wanted / MIB:.1f} MiB, its partition {size / MIB:.0f} MiB",
            hint=f"raise {limit} in release.yaml, or leave packages out; hosts keep the sizes they were installed with",
        )


def layout(
    *, release: str, verity: Verity, esp: Path, root: Path, tree: Path, signature: Path, esp_size: int, root_size: int
) -> tuple[Partition, ...]:
    """Return the partitions of a new disk: ESP, slot A with the release, slot B empty.

    Raises:
        DiskError: a content is larger than its partition.
    """
    tree_size = verity_size(root_size)
    root_label, tree_label, signature_label = labels(release)
    # Each with the limit in release.yaml that sets its size, for the error.
    wanted: list[tuple[int, str, str, str, Path | None, str]] = [
        (esp_size, TYPE_ESP, LABEL_ESP, derived_uuid("esp", release), esp, "limits.esp"),
        (root_size, TYPE_ROOT, root_label, verity.data_partition, root, "limits.root"),
        (tree_size, TYPE_VERITY, tree_label, verity.tree_partition, tree, "limits.root"),
        (SIGNATURE_SIZE, TYPE_SIGNATURE, signature_label, derived_uuid("sig", verity.root_hash), signature, ""),
        (root_size, TYPE_ROOT, EMPTY, derived_uuid("slot-b", "root"), None, ""),
        (tree_size, TYPE_VERITY, EMPTY, derived_uuid("slot-b", "verity"), None, ""),
        (SIGNATURE_SIZE, TYPE_SIGNATURE, EMPTY, derived_uuid("slot-b", "sig"), None, ""),
    ]
    partitions: list[Partition] = []
    start = MIB
    for size, kind, label, identity, content, limit in wanted:
        if size % MIB:
            raise DiskError(f"partition {label}: {size} bytes are not whole MiB")
        if content is not None:
            check_size(content.name, content.stat().st_size, size, limit)
        partitions.append(Partition(start=start, size=size, type=kind, label=label, uuid=identity, content=content))
        start += size
    return tuple(partitions)


def sfdisk_script(partitions: tuple[Partition, ...], disk_id: str) -> str:
    """Return the partition table as sfdisk reads it."""
    lines = ["label: gpt", f"label-id: {disk_id}", "unit: sectors", "sector-size: 512", ""]
    for part in partitions:
        place = f"start={part.start // SECTOR}, size={part.size // SECTOR}"
        lines.append(f'{place}, type={part.type}, uuid={part.uuid}, name="{part.label}"')
    return "\n".join(lines) + "\n"


def make_esp(tools: ToolsRoot, files: Mapping[PurePosixPath, Path], output: Path, *, size: int, epoch: int) -> None:
    """Write a FAT32 file system with ``files`` (path on it -> source), times and serial number fixed.

    Raises:
        DiskError: there is no room for the files three times: an update writes the third while two releases are there.
    """
    total = sum(path.stat().st_size for path in files.values())
    check_size("the boot files, three times,", 3 * total, size, "limits.esp")
    with output.open("wb") as file:
        file.truncate(size)
    serial = derived_uuid("fat")[:8]
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1"}
    words = ["mkfs.fat", "--invariant", "-F", "32", "-n", "ESP", "-i", serial, str(output)]
    run(tools.argv(words, binds=[output.parent]), env=environment)
    folders = sorted({parent for path in files for parent in path.parents if str(parent) != "."})
    run(
        tools.argv(["mmd", "-i", str(output), *[f"::{path}" for path in folders]], binds=[output.parent]),
        env=environment,
    )
    for path, source in sorted(files.items()):
        words = ["mcopy", "-i", str(output), str(source), f"::{path}"]
        run(tools.argv(words, binds=[output.parent, source.parent]), env=environment)


def make_disk(tools: ToolsRoot, partitions: tuple[Partition, ...], output: Path, *, disk_id: str) -> None:
    """Write the disk image, sparse, with its partitions filled."""
    end = partitions[-1].start + partitions[-1].size + MIB
    with output.open("wb") as file:
        file.truncate(end)
    words = tools.argv(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(output)], binds=[output.parent])
    run(words, stdin=sfdisk_script(partitions, disk_id).encode())
    with output.open("r+b") as disk:
        for part in partitions:
            if part.content is not None:
                _fill(disk.fileno(), part)


def _fill(disk: int, part: Partition) -> None:
    """Copy a partition's content to its place, leaving holes where it has only zeros."""
    assert part.content is not None  # noqa: S101 - the caller checked
    position = part.start
    with part.content.open("rb") as source:
        while chunk := source.read(CHUNK):
            if chunk.count(0) != len(chunk):
                os.pwrite(disk, chunk, position)
            position += len(chunk)
