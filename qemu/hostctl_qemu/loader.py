"""What systemd-boot finds in an EFI system partition, and the order in which it would start it.

Written after systemd-boot itself (src/boot/boot.c of systemd 257: config_load_entries, boot_entry_compare,
config_select_default_entry), and on purpose not shared with the agent, so that a mistake there shows here. Not
followed are EFI variables that name an entry, which lie in the firmware and not on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cmp_to_key

from hostctl.config.versions import compare
from hostctl_qemu.fat import Fat, FatFile

UKI_FOLDER = "EFI/Linux"
CONF_FOLDER = "loader/entries"
LOADER_CONF = "loader/loader.conf"
LOADER = "EFI/BOOT/BOOTX64.EFI"
SYSTEMD_BOOT = "EFI/systemd/systemd-bootx64.efi"
MAX_CONF = 16 << 10
_TRIES = re.compile(r"(?P<stem>.*)\+(?P<left>[0-9]+)(?:-(?P<done>[0-9]+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the boot loader's menu."""

    id: str
    """File name in lower case, without counter."""
    file: FatFile
    """The unified kernel image that it starts."""
    name: str
    """File name, of the entry file if it is one of those."""
    tries_left: int | None = None
    tries_done: int = 0
    sort_key: str = ""
    machine_id: str = ""
    version: str = ""


def split_counter(name: str) -> tuple[str, int | None, int]:
    """Return a file name without its counter, the tries left (none without counter), and the tries done."""
    stem, dot, suffix = name.rpartition(".")
    found = _TRIES.fullmatch(stem)
    if not dot or found is None:
        return name, None, 0
    return f"{found['stem']}.{suffix}", int(found["left"]), int(found["done"] or 0)


def parse_conf(data: bytes) -> Mapping[str, str]:
    """Return the keys of a boot loader entry file or of loader.conf; the last of several wins."""
    lines = (line.strip() for line in data[:MAX_CONF].decode("utf-8", "replace").splitlines())
    pairs = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def parse_os_release(data: bytes) -> Mapping[str, str]:
    """Return the assignments of an os-release file."""
    lines = data.decode("utf-8", "replace").rstrip("\0").splitlines()
    pairs = (line.strip().split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def uki_entry(file: FatFile, os_release: Mapping[str, str]) -> Entry | None:
    """Return the entry of an image in ``EFI/Linux``; none where systemd-boot sees none.

    Args:
        file: the image.
        os_release: its section `.osrel`, empty when that is missing or unreadable: then it is passed over.
    """
    name = file.name
    if name.startswith(".") or not name.lower().endswith(".efi") or name.lower().startswith("auto-"):
        return None
    title = next(filter(None, map(os_release.get, ("PRETTY_NAME", "IMAGE_ID", "NAME", "ID"))), None)
    if not title:
        return None
    version = next(
        (os_release[key] for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID") if os_release.get(key)), ""
    )
    stem, left, done = split_counter(name)
    return Entry(
        id=stem.lower(),
        file=file,
        name=name,
        tries_left=left,
        tries_done=done,
        sort_key=os_release.get("IMAGE_ID") or os_release.get("ID") or "",
        version=version,
    )


def conf_entry(fat: Fat, file: FatFile) -> Entry | None:
    """Return the entry that a file in ``loader/entries`` tells of; none where systemd-boot sees none."""
    if file.name.startswith(".") or not file.name.lower().endswith(".conf"):
        return None
    keys = parse_conf(file.read(fat.disk))
    target = next((keys[key] for key in ("uki", "efi", "linux") if key in keys), "")
    image = fat.find(target.replace("\\", "/").lstrip("/")) if target else None
    if image is None or keys.get("architecture", "x64").lower() != "x64":
        return None
    stem, left, done = split_counter(file.name)
    return Entry(
        id=stem.lower(),
        file=image,
        name=file.name,
        tries_left=left,
        tries_done=done,
        sort_key=keys.get("sort-key", ""),
        machine_id=keys.get("machine-id", ""),
        version=keys.get("version", ""),
    )


def _sign(left: str, right: str) -> int:
    return (left > right) - (left < right)


def _compare(left: Entry, right: Entry) -> int:
    """Order two entries, as boot_entry_compare() does: the one to start comes first."""
    order = (left.tries_left == 0) - (right.tries_left == 0) or (not left.sort_key) - (not right.sort_key)
    if not order and left.sort_key:
        order = (
            _sign(left.sort_key, right.sort_key)
            or _sign(left.machine_id, right.machine_id)
            or -compare(left.version, right.version)
        )
    order = order or -compare(left.id, right.id)
    if order or left.tries_left is None or right.tries_left is None:
        return order
    return right.tries_left - left.tries_left or left.tries_done - right.tries_done


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries in the order of systemd-boot's menu."""
    return tuple(sorted(entries, key=cmp_to_key(_compare)))


def read_entries(fat: Fat, os_release: Callable[[FatFile], Mapping[str, str]]) -> tuple[Entry, ...]:
    """Return the menu of an EFI system partition, in order.

    Args:
        fat: the partition.
        os_release: reads the section `.osrel` of an image.
    """
    images = fat.list(UKI_FOLDER).values()
    found = [uki_entry(file, os_release(file)) for file in images if not file.folder]
    found += [conf_entry(fat, file) for file in fat.list(CONF_FOLDER).values() if not file.folder]
    return in_order(entry for entry in found if entry is not None)


def choose(entries: tuple[Entry, ...], pattern: str = "") -> Entry | None:
    """Return the entry that is started when nobody touches a key: the default's pattern if one fits, else the first.

    Args:
        entries: the menu, in order.
        pattern: `default` of loader.conf. Of the entries that fit it, the first is taken.
    """
    fitting = [entry for entry in entries if pattern and fnmatchcase(entry.id, pattern.lower())]
    return next(iter(fitting or entries), None)
