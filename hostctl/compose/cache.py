"""The builder's cache of stages: a folder named by the hash of everything that its content depends on.

A stage appears whole, by one rename, or not at all; of several builders that want the same one, one makes it and
the others wait for it, while different ones are made side by side. Nothing here knows what a stage does. Folders
are never changed once they are in place; only their times are, for pruning, which waits until nobody builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

MAX_AGE = 14 * 86400.0  # seconds since the last use
MAX_BYTES = 12 << 30  # on the disk; one build of a small host takes about 2 GiB
_USERS = ".users.lock"
_BLOCK = 512  # bytes that st_blocks counts in


def stage_id(name: str, code: Sequence[bytes], inputs: Sequence[str]) -> str:
    """Return the id of a stage, 64 hexadecimal digits.

    Args:
        name: the stage's name.
        code: bytes of the code files that make it.
        inputs: options and ids of what it reads, in an order that counts.
    """
    parts = [name, [hashlib.sha256(data).hexdigest() for data in code], list(inputs)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def module_bytes(module: ModuleType) -> bytes:
    """Return the source of a module."""
    if module.__file__ is None:
        raise ValueError(f"{module.__name__} has no file")
    return Path(module.__file__).read_bytes()


def disk_usage(path: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk; holes take none."""
    total = path.lstat().st_blocks
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            total += sum(os.lstat(f"{folder}/{name}").st_blocks for name in (*names, *files))
    return total * _BLOCK


class Cache:
    """Stages below ``root``/stages, packages below ``root``/debs, compressed segments below ``root``/frames.

    One object is one builder that uses them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages = root / "stages"
        self.frames = root / "frames"
        self._used: set[Path] = set()
        self._users: BinaryIO | None = None
        self._guard = threading.Lock()

    def _hold(self) -> BinaryIO:
        """Keep others from pruning until this is closed or the process ends."""
        with self._guard:
            if self._users is None:
                self.stages.mkdir(parents=True, exist_ok=True)
                self._users = (self.stages / _USERS).open("ab")
                fcntl.flock(self._users, fcntl.LOCK_SH)
            return self._users

    def close(self) -> None:
        """Let others prune again."""
        with self._guard:
            if self._users is not None:
                self._users.close()
                self._users = None

    @contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        with (self.stages / f".{target.name}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def stage(
        self,
        name: str,
        code_modules: Sequence[ModuleType],
        inputs: Sequence[str],
        build: Callable[[Path], None],
    ) -> Path:
        """Return the folder of a stage, made by ``build`` when the cache does not have it.

        Args:
            name: the stage's name, a file name.
            code_modules: modules whose source decides what the stage makes.
            inputs: options and ids of what it reads.
            build: fills the empty folder it is given.
        """
        identity = stage_id(name, [module_bytes(module) for module in code_modules], inputs)
        target = self.stages / f"{name}-{identity}"
        self._hold()
        with self._locked(target):
            if not target.is_dir():
                self._build(target, build)
            os.utime(target)
        self._used.add(target)
        return target

    def _build(self, target: Path, build: Callable[[Path], None]) -> None:
        temporary = self.stages / f".{target.name}.{secrets.token_hex(4)}.tmp"
        temporary.mkdir()
        try:
            build(temporary)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def prune(self, age: float = MAX_AGE, limit: int = MAX_BYTES, now: float | None = None) -> tuple[Path, ...]:
        """Remove what was not used for long, then the longest unused until the rest fits; return what was removed.

        Nothing is removed while another builder uses the cache. What this one used stays in any case.

        Args:
            age: seconds since the last use.
            limit: bytes on the disk.
            now: the time to count from, seconds since 1970; none means the clock.
        """
        users = self._hold()
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(users, fcntl.LOCK_SH)  # a conversion that fails gives the shared one up as well
            return ()
        try:
            return self._prune((time.time() if now is None else now) - age, limit)
        finally:
            fcntl.flock(users, fcntl.LOCK_SH)

    def _prune(self, oldest: float, limit: int) -> tuple[Path, ...]:
        entries: list[tuple[float, Path]] = []
        for folder in (self.stages, self.root / "debs", self.frames):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not path.name.startswith("."):
                    entries.append((path.lstat().st_mtime, path))
                elif path.name != _USERS:  # nobody builds: a lock or something half made that was left behind
                    _remove(path)
        entries.sort(reverse=True)
        removed: list[Path] = []
        total = 0
        for moment, path in entries:
            size = disk_usage(path)
            if path in self._used or (moment >= oldest and total + size <= limit):
                total += size
            else:
                _remove(path)
                removed.append(path)
        return tuple(removed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
