"""The disk image: a GPT with the EFI system partition and both slots, made without mounts or loop devices.

The state partition is not in it: a host makes it on its first boot, as large as its disk allows.
Sources: UAPI discoverable partitions specification (types), sfdisk(8), mtools(1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.compose.seal import Verity, derived_uuid
from hostctl.compose.tools import ToolsRoot
from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.run import run

MIB = 1 << 20
SECTOR = 512
TYPE_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
TYPE_VERITY = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"
TYPE_SIGNATURE = "41092B05-9FC8-4523-994F-2DEF0408B176"
LABEL_ESP = "hostctl-esp"
LABEL_EMPTY = "_empty"
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


def layout(
    *, release: str, verity: Verity, esp: Path, root: Path, tree: Path, signature: Path, esp_size: int, root_size: int
) -> tuple[Partition, ...]:
    """Return the partitions of a new disk: ESP, slot A with the release, slot B empty.

    Raises:
        DiskError: a content is larger than its partition.
    """
    tree_size = verity_size(root_size)
    wanted: list[tuple[int, str, str, str, Path | None]] = [
        (esp_size, TYPE_ESP, LABEL_ESP, derived_uuid("esp", release), esp),
        (root_size, TYPE_ROOT, release, verity.data_partition, root),
        (tree_size, TYPE_VERITY, f"{release}-verity", verity.tree_partition, tree),
        (SIGNATURE_SIZE, TYPE_SIGNATURE, f"{release}-sig", derived_uuid("sig", verity.root_hash), signature),
        (root_size, TYPE_ROOT, LABEL_EMPTY, derived_uuid("slot-b", "root"), None),
        (tree_size, TYPE_VERITY, LABEL_EMPTY, derived_uuid("slot-b", "verity"), None),
        (SIGNATURE_SIZE, TYPE_SIGNATURE, LABEL_EMPTY, derived_uuid("slot-b", "sig"), None),
    ]
    partitions: list[Partition] = []
    start = MIB
    for size, kind, label, identity, content in wanted:
        if size % MIB:
            raise DiskError(f"partition {label}: {size} bytes are not whole MiB")
        if content is not None and content.stat().st_size > size:
            raise DiskError(
                f"{content.name} has {content.stat().st_size} bytes, its partition {size}",
                hint="set limits.root or limits.esp in release.yaml; hosts cannot change these by an update",
            )
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
    """Write a FAT32 file system with ``files`` (path on it -> source), times and serial number fixed."""
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
