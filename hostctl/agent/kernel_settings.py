"""Kernel settings that are not declared any more get back the value that they had before.

systemd-sysctl sets what stands in files and undoes nothing. So before a file below /etc sets one for the first time in
a boot, the kernel's value is kept in memory, and it is written back once no file has the setting: neither the
generation's nor one of the image, which systemd-sysctl goes by then. A boot finds the generation's file already there:
``hostctl-sysctl.service`` runs this as ``python3 -I -m hostctl.agent.kernel_settings`` before systemd-sysctl.

What cannot be read or written is told, and stays until the host restarts. So does what is of an interface that came
after the setting was declared.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostctl import durable
from hostctl.config.kernel import key_path
from hostctl.layout import HostLayout

OWN = "etc/sysctl.d"
FOLDERS = (OWN, "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d")
"""Of two files of the same name that of the first folder counts (sysctl.d(5))."""
PATTERN = frozenset("*?[")

Kept = Mapping[str, str | None]
"""What settings were before, by their path below /proc/sys; none where that could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What is to be done before systemd-sysctl sets what stands in files."""

    keep: tuple[str, ...]
    """Settings whose value is to be kept: none of them was set in this boot."""
    restore: Mapping[str, str]
    """Values that are to be written back."""
    lost: tuple[str, ...]
    """Settings that are not set any more, but nobody knows what they were."""


def parse(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the settings of a file, and those that its patterns leave out, as paths, which may be patterns."""
    lines = [line.strip() for line in text.splitlines()]
    parts = [line.partition("=") for line in lines if line and line[0] not in "#;"]
    paths = [(key_path(name.strip().removeprefix("-").strip()).strip("/"), equals) for name, equals, _ in parts]
    sound = [(path, equals) for path, equals in paths if path and ".." not in path.split("/")]
    return frozenset(path for path, equals in sound if equals), frozenset(path for path, equals in sound if not equals)


def decide(kept: Kept, own: Collection[str], every: Collection[str]) -> Change:
    """Decide what is to be kept and what is to be written back.

    Args:
        kept: what was kept so far in this boot.
        own: the settings that files below /etc have.
        every: the settings that any file has.
    """
    gone = {path: value for path, value in sorted(kept.items()) if path not in every}
    return Change(
        keep=tuple(path for path in sorted(own) if path not in kept),
        restore={path: value for path, value in gone.items() if value is not None},
        lost=tuple(path for path, value in gone.items() if value is None),
    )


def _settings(root: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the settings that files below /etc have, and those that any file has."""
    files: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in (root / folder).glob("*.conf"):
            files.setdefault(path.name, path)
    own: set[str] = set()
    every: set[str] = set()
    without: set[str] = set()
    for path in files.values():
        try:
            wanted, left_out = parse(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:  # a link that leads nowhere
            continue
        every |= wanted
        without |= left_out
        own |= wanted if path.parent == root / OWN else set()
    return _expanded(own, without, root), _expanded(every, without, root)


def _expanded(paths: Collection[str], without: Collection[str], root: Path) -> frozenset[str]:
    """Return the settings, with those that the kernel has in the place of patterns."""
    folder = root / "proc/sys"
    plain = {path for path in paths if PATTERN.isdisjoint(path)}
    found = {
        str(each.relative_to(folder)) for path in paths if path not in plain for each in folder.glob(path)
    }.difference(without)
    return frozenset(plain | found)


def read(layout: HostLayout) -> dict[str, str | None]:
    """Return what was kept in this boot."""
    try:
        document = json.loads(layout.kernel_settings.read_bytes())
        return {str(path): None if value is None else str(value) for path, value in document.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(layout: HostLayout, kept: Kept) -> None:
    layout.kernel_settings.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(layout.kernel_settings, json.dumps(kept, indent=1).encode() + b"\n", mode=0o600)


def bring(layout: HostLayout) -> tuple[str, ...]:
    """Keep what is about to be set for the first time, and write back what is not set any more.

    Returns what could not be. Before anything is written to the kernel, what is kept is in its file.
    """
    kept = read(layout)
    change = decide(kept, *_settings(layout.root))
    folder, notes = layout.root / "proc/sys", []
    for path in change.keep:
        try:
            kept[path] = (folder / path).read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n")
        except OSError as error:
            kept[path] = None
            notes.append(f"kernel setting {path} cannot be read, and so not be undone: {_why(error)}")
    if change.keep:
        _write(layout, kept)
    for path, value in change.restore.items():
        try:
            (folder / path).write_text(f"{value}\n", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            notes.append(f"kernel setting {path} stays as it is until the host restarts: {_why(error)}")
    notes += [
        f"kernel setting {path} stays as it is until the host restarts: it is not known what it was"
        for path in change.lost
        if (folder / path).exists()
    ]
    if change.restore or change.lost:
        _write(layout, {path: value for path, value in kept.items() if path not in {*change.restore, *change.lost}})
    return tuple(notes)


def _why(error: OSError) -> str:
    return error.strerror or str(error)


if __name__ == "__main__":
    for note in bring(HostLayout()):
        print(note)
