"""What others transfer between two releases: the peers of `bench/delta`, each run on given pairs of files.

Every technique gets the settings that make it smallest. Its programs are installed from Debian when they are missing,
and are no part of the project.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hostctl.compose.lock import load_lock
from hostctl.compose.packages import Package
from hostctl.run import CommandNotFoundError, run

BLOCK = 4096
HASH_BYTES = 32
SETTLE = 3600.0  # seconds that a program may take
PROGRAMS = {"xdelta3": "xdelta3", "casync": "casync", "zstd": "zstd", "mkfs.erofs": "erofs-utils"}
"""Each with Debian's package."""

Pair = tuple[Path, Path]
"""The old file and the new one."""


def install() -> None:
    """Install the programs that are missing.

    Raises:
        CommandNotFoundError: they cannot be installed by this user.
    """
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not missing:
        return
    if os.geteuid():
        raise CommandNotFoundError(f"{', '.join(missing)} must be installed", hint="run this once as root")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing], env=environment, timeout=SETTLE)


def xdelta(pair: Pair, folder: Path) -> int:
    """Return the bytes of a VCDIFF by xdelta3 that sees the whole old file, compressed by lzma."""
    old, new = pair
    window = 1 << max(24, old.stat().st_size.bit_length())
    words: list[str | Path] = [
        "xdelta3",
        "-e",
        "-f",
        "-9",
        "-S",
        "lzma",
        "-B",
        str(window),
        "-s",
        old,
        new,
        folder / "xdelta",
    ]
    run(words, timeout=SETTLE)
    return (folder / "xdelta").stat().st_size


def zstd(pair: Pair, folder: Path) -> int:
    """Return the bytes of a patch by zstd at level 19."""
    old, new = pair
    words: list[str | Path] = [
        "zstd",
        "-q",
        "-f",
        "-19",
        "-T0",
        "--long=29",
        f"--patch-from={old}",
        str(new),
        "-o",
        folder / "zstd",
    ]
    run(words, timeout=SETTLE)
    return (folder / "zstd").stat().st_size


def casync(pair: Pair, folder: Path) -> int:
    """Return the bytes of the chunks that a host lacks, as casync stores them, and of the new index."""
    store, index = folder / "store.castr", folder / "new.caibx"
    shutil.rmtree(store, ignore_errors=True)
    run(["casync", "make", f"--store={store}", folder / "old.caibx", pair[0]], timeout=SETTLE)
    before = {path: path.stat().st_size for path in store.rglob("*.cacnk")}
    run(["casync", "make", f"--store={store}", index, pair[1]], timeout=SETTLE)
    after = {path: path.stat().st_size for path in store.rglob("*.cacnk")}
    shutil.rmtree(store)
    return sum(size for path, size in after.items() if path not in before) + index.stat().st_size


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield hashlib.sha256(block).digest()


def blocks(pair: Pair, _folder: Path) -> int:
    """Return the bytes of the 4 KiB blocks that the old file has nowhere, and of the new file's hashes."""
    known = set(_blocks(pair[0]))
    wanted = list(_blocks(pair[1]))
    return BLOCK * len(set(wanted) - known) + HASH_BYTES * len(wanted)


TECHNIQUES: Mapping[str, Callable[[Pair, Path], int]] = {
    "xdelta3": xdelta,
    "zstd --patch-from": zstd,
    "casync chunks": casync,
    "4 KiB blocks by hash": blocks,
}


def transferred(pairs: Sequence[Pair], folder: Path) -> dict[str, int]:
    """Return what each technique transfers for all pairs together, in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: sum(technique(pair, folder) for pair in pairs) for name, technique in TECHNIQUES.items()}


def changed_packages(old: Path, new: Path) -> tuple[Package, ...]:
    """Return the packages of a host that a package manager would load to get from one lock to the other."""
    before, after = load_lock(old), load_lock(new)
    known = {package.sha256 for package in (*before.host, *before.kernel)}
    return tuple(package for package in (*after.host, *after.kernel) if package.sha256 not in known)
