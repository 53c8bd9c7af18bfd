"""The offline checker finds what is broken. Disks are made by Debian's tools: readers are not their own judges."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hostctl_lab.small_disk import (
    NAME,
    ROOT_A,
    ROOT_B,
    SIGNATURE_B,
    TREE_B,
    Keys,
    Release,
    SmallDisk,
    make_pe,
    unsigned_uki,
)
from hostctl_qemu.checker import Checker, Expectation, Verdict
from hostctl_qemu.view import open_disk

WANTED = Expectation(name=NAME, old="1", new="2")
OLD, NEW = "EFI/Linux/tiny_1.efi", "EFI/Linux/tiny_2+3.efi"


class World:
    """Releases 1 and 2 on a disk: 1 blessed, 2 to be tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys, self.foreign = Keys.make(folder / "keys"), Keys.make(folder / "foreign")
        self.old, self.new = (Release.make(version, self.keys, folder) for version in ("1", "2"))
        self.disk = SmallDisk(folder / "disk.raw")
        self.disk.fill(0, self.old)
        self.disk.fill(1, self.new)
        loader = self.keys.sign(make_pe({".text": b"loader" * 50}), folder)
        for path in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
            self.disk.put(path, loader)
        self.disk.put("loader/loader.conf", b"timeout 0\n")
        self.disk.add_entry(self.old)
        self.disk.add_entry(self.new, "+3")
        self.pristine = folder / "pristine.raw"
        shutil.copyfile(self.disk.image, self.pristine)

    def reset(self) -> None:
        """Make the disk what it was."""
        shutil.copyfile(self.pristine, self.disk.image)

    def judge(self) -> Verdict:
        """Return the verdict on the disk as it is."""
        return Checker(self.keys.certificate).judge(open_disk(self.disk.image), WANTED)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def world(made: World) -> World:
    made.reset()
    return made


def invariants(verdict: Verdict) -> set[str]:
    return {problem.invariant for problem in verdict.problems}


def test_a_good_disk_boots_the_new_release(world: World) -> None:
    verdict = world.judge()
    assert (verdict.kind, verdict.boots, verdict.problems, verdict.notes) == ("new", "tiny_2", (), ())
    assert [(entry.file, entry.tries_left) for entry in verdict.entries] == [("tiny_2+3.efi", 3), ("tiny_1.efi", None)]


def test_before_the_commit_the_old_release_boots(world: World) -> None:
    world.disk.remove(NEW)
    world.disk.put("EFI/Linux/.tiny_2.tmp", world.new.uki[:5000])
    world.disk.flip(world.disk.partition(ROOT_B).start + 70000)
    verdict = world.judge()
    assert (verdict.kind, verdict.problems) == ("old", ())


def test_a_release_out_of_tries_is_not_chosen(world: World) -> None:
    world.disk.remove(NEW)
    world.disk.add_entry(world.new, "+0-3")
    verdict = world.judge()
    assert (verdict.kind, verdict.boots, verdict.problems) == ("old", "tiny_1", ())


def corrupt_root(world: World) -> None:
    world.disk.flip(world.disk.partition(ROOT_B).start + 599 * 1024)


def corrupt_tree(world: World) -> None:
    world.disk.flip(world.disk.partition(TREE_B).start + 4096 + 4)


def corrupt_lowest_level(world: World) -> None:
    world.disk.flip(world.disk.partition(TREE_B).start + 2 * 4096 + 50)


def corrupt_superblock(world: World) -> None:
    world.disk.patch(world.disk.partition(TREE_B).start, b"VERITY")


def shorter_root(world: World) -> None:
    """All the blocks that are left verify."""
    world.disk.patch(world.disk.partition(TREE_B).start + 72, (149).to_bytes(8, "little"))


def other_salt(world: World) -> None:
    world.disk.flip(world.disk.partition(TREE_B).start + 88)


def wrong_uuid(world: World) -> None:
    world.disk.uuids[ROOT_B] = "00000000-0000-0000-0000-00000000ffff"
    kept = world.disk.uuids.copy()
    world.disk.write_table()
    assert kept == world.disk.uuids


def wrong_label(world: World) -> None:
    world.disk.labels[ROOT_B] = "tiny_3"
    world.disk.write_table()


def truncated(world: World) -> None:
    world.disk.put(NEW, world.new.uki[:15000])


def flipped_kernel(world: World) -> None:
    image = bytearray(world.new.uki)
    image[12000] ^= 1
    world.disk.put(NEW, bytes(image))


def unsigned(world: World) -> None:
    world.disk.put(NEW, unsigned_uki("2", world.new.root_hash))


def foreign_signature(world: World) -> None:
    world.disk.put(NEW, world.foreign.sign(unsigned_uki("2", world.new.root_hash), world.folder))


def other_architecture(world: World) -> None:
    world.disk.put(NEW, world.keys.sign(unsigned_uki("2", world.new.root_hash, machine=0xAA64), world.folder))


def other_release_inside(world: World) -> None:
    world.disk.put(NEW, world.old.uki)


def without_root_hash(world: World) -> None:
    world.disk.put(NEW, world.keys.sign(unsigned_uki("2", "none"), world.folder))


def broken_chain(world: World) -> None:
    """Cut the chain of clusters of the new kernel image, which was written last, in both copies of the table."""
    listing = subprocess.run(
        ["mshowfat", "-i", world.disk.esp, f"::{NEW}"], check=True, capture_output=True, text=True
    ).stdout
    first = int(listing.split("<")[1].split("-")[0].split(">")[0])
    boot = open_disk(world.disk.image).read(1 << 20, 512)
    reserved, copies = int.from_bytes(boot[14:16], "little"), boot[16]
    length = int.from_bytes(boot[22:24], "little") * 512
    for copy in range(copies):
        world.disk.patch((1 << 20) + reserved * 512 + copy * length + first * 2, b"\0\0")


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        (corrupt_root, "1 of 150 blocks of the root"),
        (corrupt_tree, "does not match the one above"),
        (corrupt_lowest_level, "does not match the one above"),
        (corrupt_superblock, "no verity superblock"),
        (shorter_root, "for 149 blocks, the root has 150"),
        (other_salt, "does not match the one above"),
        (wrong_uuid, "partitions are not there"),
        (wrong_label, "partitions are called tiny_3"),
        (flipped_kernel, "signature does not verify"),
        (unsigned, "signature does not verify"),
        (foreign_signature, "signature does not verify"),
        (other_architecture, "another architecture"),
        (other_release_inside, "says that it is tiny_1"),
        (without_root_hash, "no root hash"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_new_release_that_is_broken_is_found_and_costs_its_tries(
    made: World, breakage: Callable[[World], None], said: str
) -> None:
    made.reset()
    labels, uuids = made.disk.labels.copy(), made.disk.uuids.copy()
    try:
        breakage(made)
        verdict = made.judge()
    finally:
        made.disk.labels, made.disk.uuids = labels, uuids
    assert verdict.kind == "old"
    assert invariants(verdict) == {"I4"}
    assert said in verdict.problems[0].text
    assert verdict.failed_first == ("tiny_2+3.efi",)


@pytest.mark.parametrize("breakage", [truncated, broken_chain], ids=lambda value: value.__name__)
def test_an_image_that_the_loader_cannot_read_is_passed_over(world: World, breakage: Callable[[World], None]) -> None:
    breakage(world)
    verdict = world.judge()
    assert verdict.kind == "old"
    assert all(entry.problem or entry.release == "tiny_1" for entry in verdict.entries)


def test_a_blessed_release_that_is_broken_is_no_boot(world: World) -> None:
    world.disk.remove(NEW)
    world.disk.add_entry(world.new)
    corrupt_root(world)
    verdict = world.judge()
    assert (verdict.kind, verdict.boots) == ("neither", None)
    assert invariants(verdict) == {"I1", "I4"}


def test_both_slots_broken_is_no_boot(world: World) -> None:
    corrupt_root(world)
    world.disk.flip(world.disk.partition(ROOT_A).start)
    verdict = world.judge()
    assert verdict.kind == "neither"
    assert invariants(verdict) == {"I1", "I3", "I4"}


def test_a_trial_without_a_way_back_is_found(world: World) -> None:
    world.disk.remove(OLD)
    verdict = world.judge()
    assert verdict.kind == "neither"
    assert "none to fall back to" in verdict.problems[0].text


def test_a_release_that_is_neither_is_found(world: World) -> None:
    verdict = Checker(world.keys.certificate).judge(
        open_disk(world.disk.image), Expectation(name=NAME, old="3", new="4")
    )
    assert (verdict.kind, invariants(verdict)) == ("neither", {"I9"})


@pytest.mark.parametrize("path", ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"])
def test_a_missing_or_broken_loader_is_found(world: World, path: str) -> None:
    world.disk.put(path, make_pe({".text": b"unsigned"}))
    assert world.judge().kind == "neither"
    world.disk.remove(path)
    assert world.judge().kind == "neither"


def test_an_esp_that_is_no_file_system_is_found(world: World) -> None:
    world.disk.patch(1 << 20, bytes(512))
    verdict = world.judge()
    assert (verdict.kind, invariants(verdict)) == ("neither", {"I1"})


def test_one_broken_partition_table_is_noted_and_two_are_the_end(world: World) -> None:
    size = world.disk.image.stat().st_size
    world.disk.flip(2 * 512 + 60)
    verdict = world.judge()
    assert verdict.kind == "new"
    assert verdict.notes == ("primary table: entries' checksum is wrong",)
    world.disk.flip(size - 512 + 20)
    verdict = world.judge()
    assert (verdict.kind, invariants(verdict)) == ("neither", {"I1"})


def test_differing_tables_and_copies_of_the_fat_are_noted(world: World) -> None:
    size = world.disk.image.stat().st_size
    backup = open_disk(world.disk.image).read(size - 33 * 512, 33 * 512)
    world.disk.labels[SIGNATURE_B] = "other"
    world.disk.write_table()
    world.disk.patch(size - 33 * 512, backup)
    world.disk.labels[SIGNATURE_B] = "tiny_2-sig"
    boot = open_disk(world.disk.image).read(1 << 20, 512)
    world.disk.flip((1 << 20) + int.from_bytes(boot[14:16], "little") * 512 + int.from_bytes(boot[22:24]) * 512 + 9)
    second = int.from_bytes(boot[14:16], "little") + int.from_bytes(boot[22:24], "little")
    world.disk.flip((1 << 20) + second * 512 + 9)
    notes = world.judge().notes
    assert "primary and backup table differ" in notes
    assert "the copies of the FAT differ" in notes


def test_a_signature_partition_of_another_root_is_noted(world: World) -> None:
    world.disk.patch(world.disk.partition(SIGNATURE_B).start, world.old.signature)
    verdict = world.judge()
    assert verdict.kind == "new"
    assert verdict.notes == ("tiny_2+3.efi: the signature partition is of another root",)


def test_what_was_judged_is_not_judged_again(world: World) -> None:
    checker, view = Checker(world.keys.certificate), open_disk(world.disk.image)
    first = checker.judge(view, WANTED)
    other = view.fork()
    other.write(world.disk.partition(ROOT_A).start, 512, 0, 0)
    assert checker.judge(view, WANTED) is first
    assert checker.judge(other, WANTED).entries[1].problem
    assert checker.distinct == 2
