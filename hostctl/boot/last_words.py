"""What a boot that failed said last: the kernel's dump in pstore, and its journal. Pure; see agent/aftermath.py.

Sources: Documentation/ABI/testing/pstore, headers of ``kmsg_dump`` (``Panic#1 Part2``; part 1 is the newest text),
journalctl(1), ``--output=json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LINES_BEFORE = 6
LINES = 20
WARNING = 4  # syslog(3): this and everything below is a warning or worse
OURS = ("hostctl", "hostd")
_RECORD = re.compile(r"dmesg-[\w-]+?-(?P<id>[0-9]{1,20})(?:\.enc\.z)?")
_HEADER = re.compile(r"(?P<why>[A-Za-z ]{1,20})#(?P<count>[0-9]{1,9}) Part(?P<part>[0-9]{1,9})")
_LEVEL = re.compile(r"^<[0-9]+>")
_TIME = re.compile(r"^\[ *[0-9.]+\](?:\[[^\]]*\])? *")
_SIGNS = ("Kernel panic - not syncing", "Oops", "BUG:", "general protection fault")
_RELEASE = re.compile(r"(?:^|\s)hostctl\.release=[A-Za-z0-9.-]+_(?P<version>[A-Za-z0-9.~^-]+)(?:\s|$)")
_ROOT_HASH = re.compile(r"(?:^|\s)roothash=(?P<hash>[0-9a-f]{64})(?:\s|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Why a boot ended, in one line, and the lines that tell of it, oldest first."""

    cause: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One message of a journal."""

    source: str
    message: str
    priority: int

    @property
    def line(self) -> str:
        """Return it as a person reads it."""
        return f"{self.source}: {self.message}" if self.source else self.message

    @property
    def telling(self) -> bool:
        """Tell whether it may say why a boot failed."""
        return self.priority <= WARNING or self.source in OURS or self.message.startswith("hostctl: ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """Which release a boot was of, as its kernel command line says."""

    version: str
    root_hash: str


def dump_words(records: Mapping[str, bytes]) -> Words | None:
    """Return what the kernel said when it last died; none if no record is one of its dumps.

    Args:
        records: files of ``/sys/fs/pstore`` by name. A dump is cut into several, each with its part of the text.
    """
    parts: dict[tuple[int, int], dict[int, str]] = {}
    for name, data in records.items():
        found = _RECORD.fullmatch(name)
        head, _, body = data.decode("utf-8", "replace").partition("\n")
        header = _HEADER.match(head)
        if found is None or header is None:
            continue
        # efi_pstore: seconds * 100 000 + part * 1000 + count; other backends number their few records from 0
        key = (int(found["id"]) // 100_000, int(header["count"]))
        parts.setdefault(key, {})[int(header["part"])] = body
    if not parts:
        return None
    newest = parts[max(parts)]
    text = "\n".join(newest[part].strip("\n") for part in sorted(newest, reverse=True))
    lines = [_LEVEL.sub("", line) for line in text.splitlines() if line.strip("\0 ")]
    place = next((at for sign in _SIGNS for at, line in enumerate(lines) if sign in line), None)
    if place is None:
        return Words(cause="the kernel died", lines=tuple(lines[-LINES:]))
    first = max(0, place - LINES_BEFORE)
    return Words(cause=_TIME.sub("", lines[place]).strip(), lines=tuple(lines[first : first + LINES]))


def parse_journal(output: bytes) -> tuple[Said, ...]:
    """Return the messages in the output of ``journalctl --output=json``; what is no text is passed over."""
    said = []
    for line in output.splitlines():
        try:
            record = json.loads(line)
            message, source = record["MESSAGE"], record.get("SYSLOG_IDENTIFIER", "")
            priority = int(record.get("PRIORITY", 6))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(message, str) and isinstance(source, str):
            said.append(Said(source=source, message=message, priority=priority))
    return tuple(said)


def telling_lines(said: Sequence[Said]) -> tuple[str, ...]:
    """Return the last lines that may say why a boot failed; simply the last ones if none does."""
    chosen = [each for each in said if each.telling] or said
    return tuple(each.line for each in chosen[-LINES:])


def booted_release(kernel_lines: Iterable[str]) -> Booted | None:
    """Return the release of a boot from the first lines of its kernel; none if they do not say."""
    for line in kernel_lines:
        version, root_hash = _RELEASE.search(line), _ROOT_HASH.search(line)
        if version is not None and root_hash is not None:
            return Booted(version=version["version"], root_hash=root_hash["hash"])
    return None
