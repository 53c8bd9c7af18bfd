"""Judges a disk as a power cut left it: which release would boot next, and what of the invariants does not hold.

Offline and in milliseconds: partition tables, the EFI system partition, the boot loader's order, signatures, and every
block of the roots, by readers that share nothing with the agent and the updater. Whatever was verified once is known
by where its bytes come from, see :mod:`hostctl_qemu.view`, so that disks which share most of their bytes cost little.

Not judged: the state partition, which a journalling file system and the boots of a sample answer for.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl.config.versions import compare
from hostctl_qemu import loader
from hostctl_qemu.fat import Fat, FatError, FatFile
from hostctl_qemu.gpt import Gpt, Partition, read_gpt
from hostctl_qemu.loader import Entry
from hostctl_qemu.pe import UkiError, sections
from hostctl_qemu.signature import SignatureChecker
from hostctl_qemu.verity import VerityChecker, VerityError, read_superblock
from hostctl_qemu.view import DiskView, Fingerprint

TYPE_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
TYPES_OF_SLOTS = (
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "41092b05-9fc8-4523-994f-2def0408b176",
)
TABLE_BYTES = 1 << 20
"""Before the first partition, where a table's entries may lie anywhere."""

Kind = Literal["old", "new", "neither"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What may be found: the image's name, the release before the update, and the one that it brings."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An invariant that does not hold, and why."""

    invariant: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An entry of the boot menu: its file, release and counter, and why it would not come up (empty if it would)."""

    file: str
    release: str
    tries_left: int | None
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What would become of a disk when the power is back."""

    kind: Kind
    boots: str | None
    """Release that comes up in the end; none if nothing does."""
    failed_first: tuple[str, ...]
    """Files that the loader tries before it, in vain."""
    entries: tuple[Judged, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """What a unified kernel image says, and why firmware refuses it."""

    os_release: Mapping[str, str]
    cmdline: str
    problem: str


class Checker:
    """Judges disks whose firmware has ``certificate`` (PEM) in its db."""

    def __init__(self, certificate: Path) -> None:
        self._signatures = SignatureChecker(certificate)
        self._verity = VerityChecker()
        self._images: dict[tuple[int, Fingerprint], _Image] = {}
        self._verdicts: dict[tuple[Expectation, Fingerprint], Verdict] = {}

    @property
    def distinct(self) -> int:
        """How many disks were judged that differ in what decides the verdict."""
        return len(self._verdicts)

    def judge(self, disk: DiskView, wanted: Expectation) -> Verdict:
        """Return the verdict on a disk. It never raises for what is on the disk."""
        gpt = read_gpt(disk)
        key = (wanted, deciding(disk, gpt))
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._verdicts[key] = self._judge(disk, gpt, wanted)
        return verdict

    def _judge(self, disk: DiskView, gpt: Gpt, wanted: Expectation) -> Verdict:
        problems: list[Problem] = []
        notes = list(gpt.problems)
        esp = next((part for part in gpt.partitions if part.type == TYPE_ESP), None)
        try:
            fat = Fat(disk, esp.start, esp.size) if esp else None
        except FatError as error:
            fat, problems = None, [Problem(invariant="I1", text=error.brief)]
        if fat is None:
            problems.append(Problem(invariant="I1", text="firmware finds no EFI system partition"))
            return _nothing(problems, notes)
        if fat.copies_differ:
            notes.append("the copies of the FAT differ")
        for path in (loader.LOADER, loader.SYSTEMD_BOOT):
            problem = self._program_problem(disk, fat.find(path))
            if problem:
                problems.append(Problem(invariant="I1", text=f"{path}: {problem}"))
        conf = fat.find(loader.LOADER_CONF)
        pattern = loader.parse_conf(conf.read(disk)).get("default", "") if conf else ""
        entries = loader.read_entries(fat, lambda file: self._image(disk, file).os_release)
        judged = {entry: self._entry(disk, gpt, entry, notes) for entry in entries}
        first = loader.choose(entries, pattern)
        order = [*([first] if first else []), *(entry for entry in entries if entry != first)]
        return _conclude([judged[entry] for entry in order], wanted, problems, notes)

    def _program_problem(self, disk: DiskView, file: FatFile | None) -> str:
        if file is None:
            return "it is missing"
        return file.problem or self._image(disk, file).problem

    def _image(self, disk: DiskView, file: FatFile) -> _Image:
        key = (file.size, file.fingerprint(disk))
        image = self._images.get(key)
        if image is None:
            data = file.read(disk)
            try:
                parts = sections(data)
            except UkiError as error:
                parts, unreadable = {}, error.brief
            else:
                unreadable = ""
            image = self._images[key] = _Image(
                os_release=loader.parse_os_release(parts.get(".osrel", b"")),
                cmdline=parts.get(".cmdline", b"").rstrip(b"\0").decode("utf-8", "replace"),
                problem=unreadable or self._signatures.problem(data),
            )
        return image

    def _entry(self, disk: DiskView, gpt: Gpt, entry: Entry, notes: list[str]) -> Judged:
        image = self._image(disk, entry.file)
        words = dict(word.split("=", 1) for word in image.cmdline.split() if "=" in word)
        root_hash = words.get("roothash", "")
        release = entry.id.removesuffix(".efi").removesuffix(".conf")
        problem = entry.file.problem or image.problem
        if not problem:
            problem = self._root_problem(disk, gpt, root_hash, words.get("hostctl.blocks", ""))
        if not problem:
            labels, signed = _slot(disk, gpt, root_hash)
            said = f"{image.os_release.get('IMAGE_ID')}_{image.os_release.get('IMAGE_VERSION')}"
            if said != release or labels != (said, f"{said}-verity", f"{said}-sig"):
                problem = f"it says that it is {said}, its partitions are called {', '.join(labels)}"
            elif signed != root_hash:
                notes.append(f"{entry.name}: the signature partition is of another root")
        return Judged(file=entry.name, release=release, tries_left=entry.tries_left, problem=problem)

    def _root_problem(self, disk: DiskView, gpt: Gpt, root_hash: str, blocks: str) -> str:
        if len(root_hash) != 64 or set(root_hash) - set("0123456789abcdef"):
            return "its command line has no root hash"
        data, tree = (_by_uuid(gpt, half) for half in (root_hash[:32], root_hash[32:]))
        if data is None or tree is None:
            return "its partitions are not there"
        try:
            found = read_superblock(disk, tree).blocks
            if str(found) != blocks:
                return f"the hash tree is for {found} blocks, the root has {blocks or 'an unknown number'}"
            self._verity.check(disk, data, tree, root_hash)
        except VerityError as error:
            return str(error)
        return ""


def _by_uuid(gpt: Gpt, half: str) -> Partition | None:
    identity = str(uuid.UUID(half))
    return next((part for part in gpt.partitions if part.uuid == identity), None)


def _slot(disk: DiskView, gpt: Gpt, root_hash: str) -> tuple[tuple[str, ...], str]:
    """Return the labels of the slot with a root, and the root hash that its signature partition names."""
    data = _by_uuid(gpt, root_hash[:32])
    ordered = sorted(gpt.partitions, key=lambda part: part.start)
    roots, trees, signatures = ([part for part in ordered if part.type == kind] for kind in TYPES_OF_SLOTS)
    place = next((index for index, part in enumerate(roots) if part == data), None)
    if place is None or place >= min(len(trees), len(signatures)):
        return (), ""
    slot = roots[place], trees[place], signatures[place]
    text = disk.read(slot[2].start, min(slot[2].size, 64 << 10)).rstrip(b"\0")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    signed = str(document.get("rootHash", "")) if isinstance(document, dict) else ""
    return tuple(part.label for part in slot), signed


def deciding(disk: DiskView, gpt: Gpt) -> Fingerprint:
    """Return what determines everything that the verdict on a disk depends on."""
    ranges = [*gpt.ranges]
    ranges += [(part.start, part.size) for part in gpt.partitions if part.type in (TYPE_ESP, *TYPES_OF_SLOTS)]
    return tuple(piece for start, size in ranges for piece in disk.fingerprint(start, size))


def _nothing(problems: list[Problem], notes: list[str]) -> Verdict:
    return Verdict(
        kind="neither", boots=None, failed_first=(), entries=(), problems=tuple(problems), notes=tuple(notes)
    )


def _conclude(order: list[Judged], wanted: Expectation, problems: list[Problem], notes: list[str]) -> Verdict:
    """Return the verdict from the entries as the loader takes them.

    An entry with tries left that does not come up costs its tries, then the next is taken. One without a counter is
    taken again for ever, unless its own initrd starts and gives it up; nothing here relies on that.
    """
    releases = {f"{wanted.name}_{wanted.old}".lower(): "old", f"{wanted.name}_{wanted.new}".lower(): "new"}
    failed: list[str] = []
    chosen: Judged | None = None
    for entry in order:
        if not entry.problem:
            chosen = entry
            break
        failed.append(entry.file)
        problems.append(Problem(invariant="I4", text=f"{entry.file} would be started: {entry.problem}"))
        if entry.tries_left is None:
            break
    good = [entry for entry in order if not entry.problem]
    if not good:
        problems.append(Problem(invariant="I3", text="no entry has both a good kernel image and a good root"))
    if chosen is None:
        problems.append(Problem(invariant="I1", text="no release comes up unattended"))
    elif chosen.release not in releases:
        older = compare(chosen.release, min(releases, key=lambda name: releases[name] == "new")) < 0
        text = f"{chosen.release} comes up, which is neither the old nor the new release"
        problems.append(Problem(invariant="I9" if older else "I1", text=text))
    elif chosen.tries_left is not None and not any(entry.tries_left != 0 for entry in good if entry != chosen):
        problems.append(Problem(invariant="I1", text=f"{chosen.file} is on trial with none to fall back to"))
    found = releases.get(chosen.release) if chosen and not any(p.invariant == "I1" for p in problems) else None
    kind: Kind = "old" if found == "old" else "new" if found == "new" else "neither"
    return Verdict(
        kind=kind,
        boots=chosen.release if chosen else None,
        failed_first=tuple(failed),
        entries=tuple(order),
        problems=tuple(problems),
        notes=tuple(notes),
    )
