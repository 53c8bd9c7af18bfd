"""Disks that forget: bits that flip in the slot of a staged release, and kernel images that are not what was signed.

The staged disk is the recorded run's at the restart of its first update. What is wanted of every change: it is found,
the release with it never comes up, and the old one does.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

from hostctl_qemu.checker import TYPE_ESP, TYPES_OF_SLOTS, Checker
from hostctl_qemu.fat import Fat, FatFile
from hostctl_qemu.gpt import Partition, read_gpt
from hostctl_qemu.replay import CrashState, requests_before
from hostctl_qemu.verity import BLOCK, levels, read_superblock
from hostctl_qemu.view import DiskView

from hostctl_lab.fault_results import Results, judged
from hostctl_lab.scenario import Scenario

FLIPS = 100
STAGED = "reboot before"


def staged_disk(scenario: Scenario) -> DiskView:
    """Return the disk of the first update when all is done but the restart."""
    direction = scenario.directions[0]
    mark = scenario.recording.mark(f"{direction.label} {STAGED}")
    state = CrashState(kind="cut", durable=requests_before(scenario.requests, mark.log_bytes))
    return scenario.replay.disk(state)


def changed(disk: DiskView, place: int, data: bytes) -> DiskView:
    """Return the disk with other bytes at a place."""
    other = disk.fork()
    other.write(place, len(data), disk.files.add_bytes(data), 0)
    return other


def flipped(disk: DiskView, place: int, bit: int) -> DiskView:
    """Return the disk with one bit changed."""
    (byte,) = disk.read(place, 1)
    return changed(disk, place, bytes((byte ^ 1 << bit,)))


def new_slot(disk: DiskView, release: str) -> tuple[Partition, Partition, Partition]:
    """Return the root, tree and signature partition of a release ``NAME_VERSION``."""
    labels = (release, f"{release}-verity", f"{release}-sig")
    parts = {part.label: part for part in read_gpt(disk).partitions if part.type in TYPES_OF_SLOTS}
    root, tree, signature = (parts[label] for label in labels)
    return root, tree, signature


def new_image(disk: DiskView, release: str) -> FatFile:
    """Return the kernel image of a release in the ESP."""
    esp = next(part for part in read_gpt(disk).partitions if part.type == TYPE_ESP)
    files = Fat(disk, esp.start, esp.size).list("EFI/Linux")
    return next(file for name, file in files.items() if name.startswith(f"{release}+"))


def corruptions(disk: DiskView, release: str, seed: int) -> Iterator[tuple[str, DiskView]]:
    """Return named changes of a staged disk, each of which makes the release unfit to run."""
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    root, tree, _ = new_slot(disk, release)
    blocks = read_superblock(disk, tree).blocks
    for number in range(FLIPS):
        place = chance.randrange(blocks * BLOCK)
        yield f"root, bit flip {number} at {place}", flipped(disk, root.start + place, chance.randrange(8))
    for number in range(FLIPS // 4):
        level = chance.randrange(sum(levels(blocks)))
        place = BLOCK * (1 + level) + chance.randrange(32)  # every hash block has at least one hash
        yield f"tree, bit flip {number} at {place}", flipped(disk, tree.start + place, chance.randrange(8))
    for place in (0, 8, 12, 32, 64, 72, 80, 88):
        yield f"tree, bit flip in its superblock at {place}", flipped(disk, tree.start + place, 0)
    image = new_image(disk, release)
    places = [start + offset for start, length in image.extents for offset in range(0, length, 512)]
    for number in range(FLIPS // 4):
        place = chance.choice(places)
        yield f"kernel image, bit flip {number} at {place}", flipped(disk, place + chance.randrange(512), 3)
    for share in (1, 2, 3):
        lost = places[len(places) * share // 4 :]
        other = disk.fork()
        for place in lost:
            other.write(place, 512, 0, 0)
        yield f"kernel image, zeros after {share}/4", other


def run_corruptions(scenario: Scenario, checker: Checker, results: Results, seed: int) -> None:
    """Judge every change of the staged disk (F40, F42, F43)."""
    wanted = scenario.directions[0].expectation
    disk = staged_disk(scenario)
    run = scenario.folder.name
    for name, other in corruptions(disk, f"{wanted.name}_{wanted.new}", seed):
        verdict = checker.judge(other, wanted)
        release = f"{wanted.name}_{wanted.new}"
        fit = any(entry.release == release and not entry.problem for entry in verdict.entries)
        problems = (("I4", f"{verdict.kind}, {release} would run"),) if fit or verdict.kind != "old" else ()
        row = judged(run, "corrupt", name, seed, verdict, name)
        results.add(dataclasses.replace(row, problems=problems))
