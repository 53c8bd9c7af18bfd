"""What a generation takes over of the former one so that containers which it replaces run on meanwhile.

Their units, what those do before and after a run, and their bundles, byte for byte: systemd reads the same text again,
and one that ends by itself is started again as ever. The generation has that of instances that are about to leave in
itself; nothing starts them at boot, and the next generation is without them. It is shown that of replicas that wait for
their turn, see :mod:`hostctl.agent.in_turn`. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hostctl.agent.generation import Stored
from hostctl.agent.tree import File, Tree
from hostctl.workload.instance import is_replica

UNITS = "systemd/system"
PREPARED = "hostctl/workloads"


def tree(former: Stored, keys: Iterable[str], made: Tree) -> Tree:
    """Return the files below /etc of containers of the former generation.

    Args:
        former: where they run.
        keys: what they are called by.
        made: what the new generation has below /etc; what is in it already stands.
    """
    etc = former.path / "etc"
    paths = {path for key in keys for path in _files(etc, key)}
    return {
        path: File(content=file.read_bytes(), mode=file.stat().st_mode & 0o777)
        for path in sorted(paths)
        if path not in made and (file := etc / path).is_file()
    }


def _files(etc: Path, key: str) -> Iterator[str]:
    for unit in _named(etc / UNITS, f"workload-{key}."):
        yield f"{UNITS}/{unit.name}"
    for file in _named(etc / PREPARED, f"{key}."):
        yield f"{PREPARED}/{file.name}"


def _named(folder: Path, prefix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.startswith(prefix) and not path.is_symlink())
    # What begins as the first replica's does may be that of another one.
    return sorted(path for path in found if not is_replica(path.name.removeprefix(prefix).partition(".")[0]))


def bundles(former: Stored, keys: Iterable[str]) -> Mapping[str, Mapping[str, bytes]]:
    """Return the bundles of instances of the former generation."""
    folders = {key: former.path / "bundles" / key for key in keys}
    return {
        key: {file.name: file.read_bytes() for file in folder.iterdir()}
        for key, folder in folders.items()
        if folder.is_dir()
    }
