"""What can be wrong with the disk of a host that is off, and what the host must make of it when it is started.

Changes are made to a raw copy of a disk on which release 2 is staged beside the blessed release 1. The ordinary tests
start a few of them; ``DAMAGES`` is the whole list, for runs that have the time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hostctl.boot.slots import LABEL_ESP, Partition, filled, find_slots, read_table
from hostctl.compose.manifest import load_manifest
from hostctl.run import run
from hostctl.update.gpt import write_table
from hostctl_lab.host import Host
from hostctl_lab.releases import NAME

SECTOR = 512
BLOCK = 4096
ENTRIES = "::/EFI/Linux"
EROFS_SUPERBLOCK = 1024
EXT4_SUPERBLOCK = 1024
SECURITY_DIRECTORY = 4  # of a PE file's data directories: where its signatures are


class Disk:
    """A raw disk image with our partitions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def partition(self, label: str) -> Partition:
        """Return the partition with a label."""
        return next(part for part in read_table(self.path).partitions if part.label == label)

    def write(self, label: str, offset: int, data: bytes) -> None:
        """Write bytes at an offset of a partition."""
        with self.path.open("r+b") as file:
            file.seek(self.partition(label).start * SECTOR + offset)
            file.write(data)

    def read(self, label: str, offset: int, size: int) -> bytes:
        """Return bytes at an offset of a partition."""
        with self.path.open("rb") as file:
            file.seek(self.partition(label).start * SECTOR + offset)
            return file.read(size)

    def flip(self, label: str, offset: int) -> None:
        """Change one bit."""
        (byte,) = self.read(label, offset, 1)
        self.write(label, offset, bytes((byte ^ 1,)))

    def install(self, build: Path, running: str, tries: int = 1) -> None:
        """Bring a built release into the other slot, as an update does, with an entry that is tried so often.

        Args:
            build: the folder of the build.
            running: root hash of the release that the disk was started from.
            tries: of the boot loader.
        """
        manifest = load_manifest(build)
        title, verity = f"{manifest.name}_{manifest.version}", manifest.verity
        table = read_table(self.path)
        write_table(self.path, filled(table, find_slots(table, running).other, title, manifest.root_hash))
        root, tree = build / manifest.artifact("root").path, self.path.with_suffix(".tree")
        words = ["veritysetup", "format", "--hash=sha256", f"--salt={verity.salt}", f"--uuid={verity.uuid}"]
        printed = run([*words, root, tree], timeout=600).text
        assert manifest.root_hash in printed, printed
        for label, source in ((title, root), (f"{title}-verity", tree)):
            self.write(label, 0, source.read_bytes())
        tree.unlink()
        image = build / manifest.artifact("uki").path
        run(["mcopy", "-o", "-i", self.esp, image, f"{ENTRIES}/{title}+{tries}.efi"])

    @property
    def esp(self) -> str:
        """What mtools call the file system in the ESP."""
        return f"{self.path}@@{self.partition(LABEL_ESP).start * SECTOR}"

    def entries(self) -> list[str]:
        """Return the names of the boot entries."""
        listed = run(["mdir", "-b", "-i", self.esp, ENTRIES]).text
        return [line.rpartition("/")[2] for line in listed.splitlines() if line.endswith(".efi")]

    def entry(self, version: str) -> str:
        """Return the name of a release's boot entry."""
        return next(name for name in self.entries() if name.startswith((f"{NAME}_{version}+", f"{NAME}_{version}.")))

    def declare(self, text: str) -> None:
        """Replace the copy of the declaration that is for a host whose state is lost."""
        copy = self.path.with_suffix(".yaml")
        copy.write_text(text)
        run(["mcopy", "-o", "-i", self.esp, copy, "::/hostctl/host.yaml"])
        copy.unlink()

    def give_tries(self, version: str, tries: int) -> None:
        """Let the boot loader try a release so often."""
        run(["mren", "-i", self.esp, f"{ENTRIES}/{self.entry(version)}", f"{NAME}_{version}+{tries}.efi"])

    def change_image(self, version: str, change: Callable[[bytes], bytes]) -> None:
        """Replace the kernel image of a release by what ``change`` makes of it."""
        name = self.entry(version)
        copy = self.path.with_suffix(".efi")
        run(["mcopy", "-o", "-i", self.esp, f"{ENTRIES}/{name}", copy])
        copy.write_bytes(change(copy.read_bytes()))
        run(["mcopy", "-o", "-i", self.esp, copy, f"{ENTRIES}/{name}"])
        copy.unlink()


class PowerOn(Protocol):
    """Starts a host of its own after a change to its disk; for a first boot another declaration may be given."""

    def __call__(self, change: Callable[[Disk], None], declared: str = "") -> Host:
        """Start it."""


def unsigned(image: bytes) -> bytes:
    """Return an EFI program without its signatures."""
    (start,) = struct.unpack_from("<I", image, 0x3C)
    directory = start + 24 + 112 + 8 * SECURITY_DIRECTORY
    place, size = struct.unpack_from("<II", image, directory)
    return image[:directory] + bytes(8) + image[directory + 8 : place] + image[place + size :]


def flipped(image: bytes) -> bytes:
    """Return an EFI program with one bit of its middle changed."""
    middle = len(image) // 2
    return image[:middle] + bytes((image[middle] ^ 1,)) + image[middle + 1 :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One thing that is wrong with a staged release."""

    make: Callable[[Disk], None]
    cause: str
    """Regular expression for what the history says of the release afterwards."""


def _root(disk: Disk) -> None:
    disk.flip(f"{NAME}_2", EROFS_SUPERBLOCK)


def _tree(disk: Disk) -> None:
    disk.flip(f"{NAME}_2-verity", BLOCK)


def _image(change: Callable[[bytes], bytes]) -> Callable[[Disk], None]:
    """Return what changes the kernel image, with three tries: each ends in the firmware, none in a reset."""

    def make(disk: Disk) -> None:
        disk.change_image("2", change)
        disk.give_tries("2", 3)

    return make


def _tree_superblock(disk: Disk) -> None:
    disk.flip(f"{NAME}_2-verity", 0)


DAMAGES: Mapping[str, Damage] = {
    "root": Damage(make=_root, cause="Kernel panic - not syncing: dm-verity device corrupted"),
    "tree": Damage(make=_tree, cause="dm-verity device corrupted|the root does not match its root hash"),
    "tree-superblock": Damage(make=_tree_superblock, cause="the root does not match its root hash"),
    "image-cut": Damage(make=_image(lambda image: image[: len(image) // 2]), cause="did not come up"),
    "image-flipped": Damage(make=_image(flipped), cause="did not come up"),
    "image-unsigned": Damage(make=_image(unsigned), cause="did not come up"),
}
"""A staged release 2 that cannot start. Release 1 must, unattended, and the history must say why."""


def lose_state(disk: Disk) -> None:
    """Make the state unreadable: all superblocks of its file system and its first inodes are gone."""
    part = disk.partition("hostctl-var")
    group = 32768 * BLOCK
    for number in range(part.size * SECTOR // group + 1):
        disk.write("hostctl-var", number * group, bytes(min(BLOCK * 300, part.size * SECTOR - number * group)))


def break_esp(disk: Disk) -> None:
    """Leave the ESP as a power cut might: dirty, with the first table torn and clusters that nothing names."""
    size = _FatSizes.of(disk)
    disk.write(LABEL_ESP, size.dirty, b"\x01")
    disk.write(LABEL_ESP, size.table, b"\0" * size.width)  # the media byte: only the second table is whole now
    lost = size.last_free(disk)
    disk.write(LABEL_ESP, size.second + lost * size.width, b"\xff" * size.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class _FatSizes:
    """Where things are in a FAT file system: the dirty byte, both tables, bytes an entry."""

    dirty: int
    table: int
    second: int
    width: int
    entries: int

    @classmethod
    def of(cls, disk: Disk) -> _FatSizes:
        """Read the boot sector."""
        head = disk.read(LABEL_ESP, 0, SECTOR)
        sector, per_cluster, reserved = struct.unpack_from("<HBH", head, 11)
        short, long = struct.unpack_from("<H", head, 22)[0], struct.unpack_from("<I", head, 36)[0]
        sectors = short or long
        total = struct.unpack_from("<H", head, 19)[0] or struct.unpack_from("<I", head, 32)[0]
        table = reserved * sector
        return cls(
            dirty=37 if short else 65,
            table=table,
            second=table + sectors * sector,
            width=2 if short else 4,
            entries=(total - reserved - 2 * sectors) // per_cluster,
        )

    def last_free(self, disk: Disk) -> int:
        """Return the highest cluster that the second table has as free."""
        table = disk.read(LABEL_ESP, self.second, self.entries * self.width)
        free = (at for at in range(self.entries - 1, 2, -1) if not any(table[at * self.width : (at + 1) * self.width]))
        return next(free)
