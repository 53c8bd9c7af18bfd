"""The builder's cache of stages: a folder named by the hash of everything that its content depends on.

A stage appears whole, by one rename, or not at all; one builder at a time makes it. Nothing here knows
what a stage does. Folders are never changed once they are in place; only their times are, for pruning.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_LOCK_SUFFIX = ".lock"


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


class Cache:
    """Stages below ``root``/stages, packages below ``root``/debs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages = root / "stages"

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.stages.mkdir(parents=True, exist_ok=True)
        with (self.stages / f".{name}{_LOCK_SUFFIX}").open("ab") as file:
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
        with self._locked(name):
            if not target.is_dir():
                self._build(target, build)
            os.utime(target)
        return target

    def _build(self, target: Path, build: Callable[[Path], None]) -> None:
        temporary = self.stages / f".{target.name}.{secrets.token_hex(4)}.tmp"
        temporary.mkdir()
        try:
            build(temporary)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def prune(self, age: float, now: float | None = None) -> tuple[Path, ...]:
        """Remove stages and packages that were not used for ``age`` seconds, and return their paths.

        Args:
            age: seconds since the last use.
            now: the time to count from, seconds since 1970; none means the clock.
        """
        limit = (time.time() if now is None else now) - age
        debs = self.root / "debs"
        entries = [path for folder in (self.stages, debs) if folder.is_dir() for path in folder.iterdir()]
        old = [path for path in sorted(entries) if path.suffix != _LOCK_SUFFIX and path.stat().st_mtime < limit]
        for path in old:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return tuple(old)
