"""More than one way from the firmware to a release: boot options for the loader's failures, kept in the firmware.

systemd-boot hands back to the firmware when the entry that it chose cannot be loaded (cut off, altered, not signed by
a key that the firmware knows), and a firmware that has no further option halts with nobody there. So the loader is
named several times, one for each try that may fail like this, and then the other release's kernel image, which needs
no loader. They stand behind the option that started this boot: what was first stays first.

Pure but for :func:`install`. Source: UEFI specification, "Load options", "Hard drive media device path", "Globally
defined variables"; Linux' efivarfs puts four bytes of attributes before a variable's content.
"""

from __future__ import annotations

import os
import re
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.boot.assess import ATTRIBUTES, EFIVARS
from hostctl.boot.entries import BootEntry, in_boot_order
from hostctl.boot.slots import LABEL_ESP, Table

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
LOADER = r"\EFI\systemd\systemd-bootx64.efi"
ENTRIES = "\\EFI\\Linux\\"
AGAIN = 3  # times that the loader is started after the first: as many as the default of a release's tries
PREFIX = "hostctl "
MAX_VARIABLE = 4096
_ACTIVE = 1
_PERSISTENT = 7  # non-volatile, boot services, run time
_GPT, _GUID = 2, 2
_HEAD = struct.Struct("<IH")
_DRIVE = struct.Struct("<BBHIQQ16sBB")
_END = b"\x7f\xff\x04\x00"
_NAME = re.compile(rf"Boot([0-9A-F]{{4}})-{GLOBAL}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The boot options of a firmware: contents by number, their order, and the one that started this boot."""

    contents: Mapping[int, bytes]
    order: tuple[int, ...]
    current: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What to write to the firmware: ``None`` removes an option; an order of ``None`` stays as it is."""

    contents: Mapping[int, bytes | None]
    order: tuple[int, ...] | None


def load_option(description: str, table: Table, path: str) -> bytes | None:
    """Return the boot option for a file of the ESP; none if the table has no ESP."""
    found = next(((at, part) for at, part in enumerate(table.partitions, 1) if part.label == LABEL_ESP), None)
    if found is None:
        return None
    number, esp = found
    unique = uuid.UUID(esp.uuid).bytes_le
    drive = _DRIVE.pack(4, 1, _DRIVE.size, number, esp.start, esp.size, unique, _GPT, _GUID)
    name = f"{path}\0".encode("utf-16-le")
    nodes = drive + struct.pack("<BBH", 4, 4, 4 + len(name)) + name + _END
    return _HEAD.pack(_ACTIVE, len(nodes)) + f"{description}\0".encode("utf-16-le") + nodes


def wanted(table: Table, entries: Iterable[BootEntry], running: str) -> tuple[bytes, ...]:
    """Return the options that this host should have, in order.

    Args:
        table: of the disk that it runs from.
        entries: what is in the ESP.
        running: version of the running release.
    """
    others = [entry for entry in in_boot_order(entries) if entry.good and entry.version != running]
    files = [(f"{PREFIX}{number + 2}", LOADER) for number in range(AGAIN)]
    files += [(f"{PREFIX}other release", f"{ENTRIES}{entry.filename}") for entry in others[:1]]
    options = (load_option(description, table, path) for description, path in files)
    return tuple(option for option in options if option is not None)


def description(option: bytes) -> str:
    """Return the text of a boot option; empty if it has none."""
    text = option[_HEAD.size :]
    ends = [at for at in range(0, len(text) - 1, 2) if text[at : at + 2] == b"\0\0"]
    return text[: ends[0]].decode("utf-16-le", "replace") if ends else ""


def plan(now: Options, want: Sequence[bytes]) -> Change:
    """Return what to change so that the options ``want`` stand behind the one that started this boot."""
    ours = {description(data): number for number, data in sorted(now.contents.items(), reverse=True)}
    ours = {text: number for text, number in ours.items() if text.startswith(PREFIX)}
    free = (number for number in range(0x10000) if number not in now.contents)
    numbers = [ours.get(description(option)) for option in want]
    placed = [next(free) if number is None else number for number in numbers]
    stale = {number for number, data in now.contents.items() if description(data).startswith(PREFIX)} - {*placed}
    contents: dict[int, bytes | None] = dict.fromkeys(stale)
    contents |= {at: data for at, data in zip(placed, want, strict=True) if now.contents.get(at) != data}
    own = {*placed, *stale}
    others = [number for number in now.order if number not in own]
    if now.current in others:
        behind = others.index(now.current) + 1
    else:  # started by one of ours, or by something that is in no order
        behind = next((at for at, number in enumerate(now.order) if number in own), 0)
    order = (*others[:behind], *placed, *others[behind:])
    return Change(contents=contents, order=None if order == now.order else order)


def read_options(root: Path) -> Options | None:
    """Return the firmware's boot options; none if it has no variables.

    Raises:
        OSError: the firmware does not answer.
    """
    folder = root / EFIVARS
    order = _variable(folder / f"BootOrder-{GLOBAL}")
    if order is None:
        return None
    names = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    contents = {int(found[1], 16): _variable(path) or b"" for path, found in names if found is not None}
    current = _variable(folder / f"BootCurrent-{GLOBAL}") or b""
    numbers = struct.unpack(f"<{len(order) // 2}H", order[: len(order) // 2 * 2])
    return Options(
        contents=contents, order=numbers, current=struct.unpack("<H", current)[0] if len(current) == 2 else None
    )


def _variable(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_VARIABLE)[ATTRIBUTES:]
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, struct.pack("<I", _PERSISTENT) + content)  # efivarfs takes a variable in one call
    finally:
        os.close(descriptor)


def install(root: Path, table: Table, entries: Iterable[BootEntry], running: str) -> bool:
    """Make the firmware's boot options what :func:`wanted` says, the order last. Tells whether anything was written.

    Raises:
        OSError: the firmware refuses.
    """
    now = read_options(root)
    if now is None:
        return False
    change = plan(now, wanted(table, entries, running))
    folder = root / EFIVARS
    for number, content in sorted(change.contents.items()):
        path = folder / f"Boot{number:04X}-{GLOBAL}"
        if content is None:
            path.unlink()
        else:
            _write(path, content)
    if change.order is not None:
        _write(folder / f"BootOrder-{GLOBAL}", struct.pack(f"<{len(change.order)}H", *change.order))
    return bool(change.contents) or change.order is not None
