"""The two slots of a disk: which one runs, which one an update may overwrite, and how the partition table changes.

A pure model of ``sfdisk --json`` and one thin edge that runs sfdisk. Only labels and UUIDs ever change, see
``update/gpt.py`` for how they are written. A slot's UUIDs are the halves of its root hash, as the UAPI
discoverable partitions specification says. A disk image works as a disk, with files beside it as partitions.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.run import run

TYPE_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
TYPE_VERITY = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"
TYPE_SIGNATURE = "41092B05-9FC8-4523-994F-2DEF0408B176"
LABEL_ESP = "hostctl-esp"
EMPTY = "_empty"
MAX_LABEL = 36  # UTF-16 units that a GPT entry holds
_SFDISK_SECONDS = 60.0


class SlotError(HostctlError):
    """The disk does not look like one of ours."""

    id = "slots"


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One entry of the partition table. ``start`` and ``size`` count sectors."""

    node: Path
    start: int
    size: int
    type: str
    uuid: str
    label: str
    attributes: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A GPT as sfdisk prints it: its partitions in order, and the bytes of a sector."""

    partitions: tuple[Partition, ...]
    sector: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """The three partitions that hold one release."""

    root: Partition
    verity: Partition
    signature: Partition

    def holds(self, root_hash: str) -> bool:
        """Tell whether the partitions' UUIDs are the halves of ``root_hash``."""
        return (self.root.uuid, self.verity.uuid) == halves(root_hash)

    @property
    def release(self) -> str | None:
        """Return ``NAME_VERSION`` of the complete release in the slot; none if it is empty or half written."""
        name = self.root.label
        complete = (name, self.verity.label, self.signature.label) == _labels(name)
        return name if complete and name != EMPTY else None

    @property
    def root_hash(self) -> str:
        """Return the root hash that the UUIDs spell."""
        return (self.root.uuid + self.verity.uuid).replace("-", "").lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """The slot that runs and the other one."""

    running: Slot
    other: Slot

    def digests(self) -> dict[str, str]:
        """Return the root hashes of the complete releases in the slots, by version."""
        slots = [(slot.release, slot.root_hash) for slot in (self.running, self.other)]
        return {release.partition("_")[2]: root_hash for release, root_hash in slots if release is not None}


def _labels(release: str) -> tuple[str, str, str]:
    return release, f"{release}-verity", f"{release}-sig"


def labels(release: str) -> tuple[str, str, str]:
    """Return the labels of the root, the verity and the signature partition of ``release`` (``NAME_VERSION``).

    Raises:
        SlotError: they do not fit a GPT.
    """
    names = _labels(release)
    if max(map(len, names)) > MAX_LABEL or not release.isascii() or '"' in release:
        raise SlotError(f"{release!r} is too long or unfit for a partition label")
    return names


def halves(root_hash: str) -> tuple[str, str]:
    """Return the UUIDs of the root and the verity partition for a root hash of 64 hexadecimal digits."""
    return str(uuid.UUID(root_hash[:32])), str(uuid.UUID(root_hash[32:]))


def running_root_hash(cmdline: str) -> str:
    """Return ``roothash=`` of a kernel command line, lower case.

    Raises:
        SlotError: it is not there, or not the SHA-256 of a root.
    """
    for word in cmdline.split():
        key, _, value = word.partition("=")
        if key == "roothash" and len(value) == 64 and set(value.lower()) <= set("0123456789abcdef"):
            return value.lower()
    raise SlotError(
        "this host was not started from a verified slot", details="the kernel command line has no roothash="
    )


def find_disk(root_hash: str, root: Path = Path("/")) -> Path:
    """Return the disk with the partition that holds the running root.

    Raises:
        SlotError: there is no such partition, or it is on no disk with partitions.
    """
    identity = halves(root_hash)[0]
    link = root / "dev/disk/by-partuuid" / identity
    if not link.exists():
        raise SlotError("the partition of the running root is not there", details=str(link))
    entry = (root / "sys/class/block" / link.resolve().name).resolve()
    if not (entry / "partition").exists():
        raise SlotError(f"{entry.name} is not a partition of a disk")
    return root / "dev" / entry.parent.name


def _listed(value: object) -> list[dict[str, str | int]]:
    if not isinstance(value, list):
        raise TypeError("partitions")
    return value


def parse_table(document: bytes) -> Table:
    """Read the output of ``sfdisk --json``.

    Raises:
        SlotError: it is not a GPT, or sfdisk printed something unexpected.
    """
    try:
        table: Mapping[str, object] = json.loads(document)["partitiontable"]
        if table["label"] != "gpt":
            raise SlotError(f"{table['device']} has no GPT")
        partitions = tuple(
            Partition(
                node=Path(str(part["node"])),
                start=int(part["start"]),
                size=int(part["size"]),
                type=str(part["type"]).upper(),
                uuid=str(part["uuid"]).lower(),
                label=str(part.get("name", "")),
                attributes=str(part.get("attrs", "")),
            )
            for part in _listed(table["partitions"])
        )
        return Table(partitions=partitions, sector=int(str(table.get("sectorsize", 512))))
    except (KeyError, TypeError, ValueError) as error:
        raise SlotError("sfdisk printed a partition table that cannot be read", details=repr(error)) from error


def find_slots(table: Table, root_hash: str) -> Slots:
    """Return the running slot, found by its root hash, and the other one.

    Slots are the first and the second partition of each of the three types, in disk order.

    Raises:
        SlotError: there are not exactly two slots, or none holds ``root_hash``.
    """
    ordered = sorted(table.partitions, key=lambda part: part.start)
    roots, trees, signatures = (
        [part for part in ordered if part.type == kind] for kind in (TYPE_ROOT, TYPE_VERITY, TYPE_SIGNATURE)
    )
    if not len(roots) == len(trees) == len(signatures) == 2:
        raise SlotError(
            f"the disk has {len(roots)} root, {len(trees)} verity and {len(signatures)} signature partitions"
        )
    first, second = (Slot(root=roots[place], verity=trees[place], signature=signatures[place]) for place in (0, 1))
    if first.holds(root_hash):
        return Slots(running=first, other=second)
    if second.holds(root_hash):
        return Slots(running=second, other=first)
    raise SlotError("no slot of the disk holds the running root", details=f"roothash={root_hash}")


def _relabel(table: Table, changes: Mapping[Path, tuple[str, str]]) -> Table:
    partitions = tuple(
        replace(part, label=changes[part.node][0], uuid=changes[part.node][1]) if part.node in changes else part
        for part in table.partitions
    )
    return replace(table, partitions=partitions)


def emptied(table: Table, slot: Slot) -> Table:
    """Return the table with ``slot`` marked empty, under fresh UUIDs that no root hash spells."""
    parts = (slot.root, slot.verity, slot.signature)
    return _relabel(table, {part.node: (EMPTY, str(uuid.uuid4())) for part in parts})


def filled(table: Table, slot: Slot, release: str, root_hash: str) -> Table:
    """Return the table with ``slot`` holding ``release`` (``NAME_VERSION``) of ``root_hash``.

    Raises:
        SlotError: the labels do not fit a GPT.
    """
    names = labels(release)
    data, tree = halves(root_hash)
    return _relabel(
        table,
        {
            slot.root.node: (names[0], data),
            slot.verity.node: (names[1], tree),
            slot.signature.node: (names[2], str(uuid.uuid4())),
        },
    )


def read_table(disk: Path) -> Table:
    """Return the partition table of a disk or a disk image.

    Raises:
        SlotError: it has no GPT.
        CommandError: sfdisk failed.
    """
    return parse_table(run(["sfdisk", "--json", disk], timeout=_SFDISK_SECONDS).stdout)
