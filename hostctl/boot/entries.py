"""Names of boot entries with their counters, and which one systemd-boot would start.

Pure. Source: UAPI.1 Boot Loader Specification, "boot counting": ``NAME_VERSION+LEFT[-DONE].efi``; an entry without
counter is good, one with no tries left is bad; order of ``boot_entry_compare()`` in systemd-boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cmp_to_key

from hostctl.config.versions import compare

_ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*)_(?P<version>[A-Za-z0-9][A-Za-z0-9.~^-]*?)"
    r"(?:\+(?P<left>[0-9]{1,9})(?:-(?P<done>[0-9]{1,9}))?)?\.efi"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BootEntry:
    """One unified kernel image in the ESP, as its file name tells it."""

    name: str
    version: str
    left: int | None = None
    """Tries left; none if the entry is not counted."""
    done: int = 0
    """Tries done."""

    @property
    def release(self) -> str:
        """Return ``NAME_VERSION``."""
        return f"{self.name}_{self.version}"

    @property
    def bad(self) -> bool:
        """Tell whether the boot loader has given the entry up."""
        return self.left == 0

    @property
    def good(self) -> bool:
        """Tell whether the entry was blessed, or never counted."""
        return self.left is None

    @property
    def filename(self) -> str:
        """Return the entry's file name in the ESP."""
        if self.left is None:
            return f"{self.release}.efi"
        done = f"-{self.done}" if self.done else ""
        return f"{self.release}+{self.left}{done}.efi"

    def given_up(self) -> BootEntry:
        """Return the entry that the boot loader takes only when there is no other."""
        return replace(self, left=0)


def parse_entry(filename: str) -> BootEntry | None:
    """Return the entry that a file name stands for; none for files that are not ours."""
    found = _ENTRY.fullmatch(filename)
    if found is None:
        return None
    left = found["left"]
    return BootEntry(
        name=found["name"],
        version=found["version"],
        left=None if left is None else int(left),
        done=int(found["done"] or 0),
    )


def parse_entries(filenames: Iterable[str], name: str) -> tuple[BootEntry, ...]:
    """Return the entries of the image ``name`` among the files of a folder."""
    entries = (parse_entry(filename) for filename in filenames)
    return tuple(entry for entry in entries if entry is not None and entry.name == name)


def _order(left: BootEntry, right: BootEntry) -> int:
    if left.bad != right.bad:
        return 1 if left.bad else -1
    version = compare(right.version, left.version)
    if version:
        return version
    if left.left != right.left:
        counts = [float("inf") if entry.left is None else entry.left for entry in (left, right)]
        return -1 if counts[0] > counts[1] else 1
    return (left.done > right.done) - (left.done < right.done)


def in_boot_order(entries: Iterable[BootEntry]) -> tuple[BootEntry, ...]:
    """Return the entries of one image as systemd-boot sorts them: the first is started."""
    return tuple(sorted(entries, key=cmp_to_key(_order)))


def choose(entries: Iterable[BootEntry]) -> BootEntry | None:
    """Return the entry that systemd-boot would start, a bad one only when all are bad; none if there is none."""
    return next(iter(in_boot_order(entries)), None)
