"""One build: its checked inputs, and the one way in which its stages are made, found and reported.

Everything that can be wrong with the inputs is refused here, before the first stage. What the stages do is not
known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hostctl.compose.cache import Cache
from hostctl.compose.keys import KeySet
from hostctl.compose.lock import NAME as LOCK_NAME
from hostctl.compose.lock import Lock, cache_folder, check_lock, load_lock
from hostctl.compose.packages import Package, fetch_packages
from hostctl.config.load import load_release
from hostctl.config.release import ReleaseDeclaration
from hostctl.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build, from which lock and keys, and where to. None means the place beside the declaration."""

    release: Path
    output: Path
    keys: Path | None = None
    lock: Path | None = None


class Builder:
    """One build: its inputs, and the folders of the stages made so far."""

    def __init__(self, request: BuildRequest, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self.release: ReleaseDeclaration = load_release(request.release)
        self.keys = KeySet.load(request.keys or _default_keys(request.release))
        self.lock: Lock = load_lock(request.lock or request.release.with_name(LOCK_NAME), request.release)
        check_lock(self.lock, self.release)
        self.cache = Cache(cache_folder())
        self.id = f"{self.release.name}_{self.release.release}"
        self.made: list[str] = []

    def stage(self, name: str, code: Sequence[ModuleType], inputs: Sequence[str], make: Callable[[Path], None]) -> Path:
        """Return a stage's folder, and report whether it was made or found."""

        def build(folder: Path) -> None:
            self.made.append(name)
            with self.progress.stage(name):
                make(folder)

        found = self.cache.stage(name, code, [*inputs, str(self.lock.source_date_epoch)], build)
        if name not in self.made:
            self.progress.done(name, 0.0, "unchanged")
        return found

    def packages(self, wanted: Sequence[Package]) -> Mapping[Package, Path]:
        """Return the files of packages, from the cache or the mirror."""
        return fetch_packages(wanted, self.cache.root)


def _default_keys(release: Path) -> Path:
    return Path(os.environ.get("HOSTCTL_KEYS") or release.with_name("keys"))
