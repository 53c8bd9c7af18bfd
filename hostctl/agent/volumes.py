"""Named volumes on the disk: which there are, who uses them, making, removing, saving and restoring them.

A volume is the folder ``/var/lib/hostctl/volumes/NAME``; files in it have the workload's own numbers. One that the
declaration names, or a workload mounts, is never removed; and none is while that may be taken back, because what is
gone back to may need it. Names that begin with a dot are at work: what a crash left there is removed by the next start
of the agent, when nobody is.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from hostctl import durable
from hostctl.agent import copying, event_log, exclusive, generation, parsed, pausing, pending, requiring
from hostctl.agent.machine import Machine, UnitState, starter_units, workload_unit
from hostctl.agent.outcome import Copied
from hostctl.config.names import Name
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.libc import call, library
from hostctl.removal import remove_tree
from hostctl.run import run
from hostctl.workload.beneath import MAX_DEPTH

SYNC_SECONDS = 600.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <linux/fcntl.h>, <linux/fs.h>


class UnknownVolumeError(HostctlError):
    """There is no volume of this name."""

    id = "unknown-volume"
    exit_code = EXIT_USAGE


class VolumeInUseError(HostctlError):
    """A volume cannot be changed while it is declared or used."""

    id = "volume-in-use"


class VolumeExistsError(HostctlError):
    """There is such a volume already."""

    id = "volume-exists"


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """One volume. ``bytes`` is what its files take on the disk, -1 if that was not asked for."""

    name: str
    path: str
    declared: bool
    changed: str
    """When an entry of its folder last came or went, UTC, ISO 8601."""
    owner: str
    workloads: tuple[str, ...]
    running: tuple[str, ...]
    """Those of ``workloads`` that run, start, end or are about to be tried again."""
    bytes: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What the generation in force says of volumes: which are declared, and who mounts which."""

    declared: frozenset[str]
    mounts: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the units of each workload are called by."""


def use(layout: HostLayout) -> Use:
    """Return who uses what, from the declaration in force and the bundles made of it."""
    stored = generation.current(layout)
    if stored is None:
        return Use(declared=frozenset(), mounts={})
    declaration = parsed.declaration(stored)
    mounts: dict[str, tuple[str, ...]] = {}
    for workload in sorted(stored.record.images):
        bundle = stored.path / "bundles" / stored.record.key(workload)  # replicas mount what the first does
        for name in sorted(mounted_in(bundle / "config.json", layout)):
            mounts[name] = (*mounts.get(name, ()), workload)
    return Use(
        declared=frozenset(str(name) for name in declaration.volumes),
        mounts=mounts,
        keys={workload: stored.record.keys(workload) for workload in stored.record.images},
    )


def mounted_in(bundle: Path, layout: HostLayout) -> set[str]:
    """Return the volumes that a bundle mounts, whole or in part."""
    try:
        document = json.loads(bundle.read_bytes())
    except FileNotFoundError:
        return set()
    folder = f"/{layout.volumes.relative_to(layout.root)}/"
    sources = [str(mount.get("source", "")) for mount in document.get("mounts", [])]
    return {source.removeprefix(folder).split("/")[0] for source in sources if source.startswith(folder)}


class Volumes:
    """The volumes of the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine) -> None:
        self._layout = layout
        self._machine = machine

    def _path(self, name: str) -> Path:
        try:
            return self._layout.volumes / Name.parse(name)
        except ValueError as error:
            raise UnknownVolumeError(f"{name!r} is no name of a volume", details=str(error)) from error

    def list(self, *, sizes: bool = False) -> tuple[Volume, ...]:
        """Return all volumes, by name."""
        folder = self._layout.volumes
        names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        used = use(self._layout)
        return tuple(self._volume(name, used, sizes=sizes) for name in names if not name.startswith("."))

    def get(self, name: str) -> Volume:
        """Return one volume with its size.

        Raises:
            UnknownVolumeError: there is none.
        """
        return self._get(name, sizes=True)

    def _get(self, name: str, *, sizes: bool) -> Volume:
        if not self._path(name).is_dir():
            raise UnknownVolumeError(f"there is no volume {name!r}", hint="hostctl volume ls")
        return self._volume(name, use(self._layout), sizes=sizes)

    def _volume(self, name: str, used: Use, *, sizes: bool) -> Volume:
        path = self._path(name)
        found = path.stat()
        workloads = used.mounts.get(name, ())
        units = {each: [workload_unit(key) for key in used.keys[each]] for each in workloads}
        states = self._machine.states([unit for each in units.values() for unit in each])
        running = tuple(each for each in workloads if any(_runs(states.get(unit)) for unit in units[each]))
        return Volume(
            name=name,
            path=str(path),
            declared=name in used.declared,
            changed=datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds"),
            owner=f"{found.st_uid}:{found.st_gid}",
            workloads=workloads,
            running=running,
            bytes=_size(path) if sizes else -1,
        )

    def create(self, name: str, owner: tuple[int, int] = (0, 0)) -> Volume:
        """Make an empty volume for a user of workloads.

        Raises:
            VolumeExistsError: there is one.
        """
        path = self._path(name)
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            raise VolumeExistsError(f"there is a volume {name!r} already") from None
        os.chown(path, *owner)
        durable.sync_directory(path.parent)
        event_log.write("create", name, kind="volume")
        return self.get(name)

    def remove(self, name: str) -> None:
        """Remove a volume with all that is in it.

        Raises:
            VolumeInUseError: it is declared, or a workload mounts it; or what is declared may still be taken back.
            BusyError: the declaration is being changed.
        """
        with self._settled():
            volume = self._get(name, sizes=False)
            if volume.declared or volume.workloads:
                why = f"workload {volume.workloads[0]} mounts it" if volume.workloads else "it is declared"
                raise VolumeInUseError(f"volume {name} is in use: {why}", hint="take it out of host.yaml first")
            doomed = self._set_aside(name)
        self._discard(name, doomed)

    def prune(self) -> tuple[Volume, ...]:
        """Remove every volume that is neither declared nor mounted, and return those.

        Raises:
            VolumeInUseError: what is declared may still be taken back.
            BusyError: the declaration is being changed.
        """
        with self._settled():
            unused = [volume for volume in self.list() if not volume.declared and not volume.workloads]
            doomed = [(volume, self._set_aside(volume.name)) for volume in unused]
        removed = tuple(replace(volume, bytes=_size(aside)) for volume, aside in doomed)
        for volume, aside in doomed:
            self._discard(volume.name, aside)
        return removed

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Keep the declaration in force what it is, and nothing to go back to, while volumes are set aside.

        Several who remove wait for each other, so they are told apart from who changes the declaration.
        """
        with self._lock(), exclusive.lock(self._layout):
            if pending.read(self._layout) is not None:
                raise VolumeInUseError(
                    "no volume can be removed now: the declaration in force may still be taken back",
                    hint="try again when the boot's health is known; `systemctl restart hostd` takes a change back",
                )
            yield

    def _set_aside(self, name: str) -> Path:
        aside = self._beside(name)
        self._path(name).rename(aside)
        durable.sync_directory(aside.parent)
        return aside

    @staticmethod
    def _discard(name: str, aside: Path) -> None:
        remove_tree(aside)
        event_log.write("remove", name, kind="volume")

    def clean(self) -> None:
        """Remove what a crash left half done, as far as the disk lets it; only while nobody is at work."""
        for path in self._layout.volumes.glob(".*"):
            with suppress(OSError):
                remove_tree(path)

    def _beside(self, name: str) -> Path:
        return self._layout.volumes / f".{name}.{secrets.token_hex(4)}"

    def save(self, name: str, descriptor: int, *, live: bool) -> Copied:
        """Write a volume to a file as a tar stream.

        Raises:
            VolumeInUseError: a workload that mounts it runs, and ``live`` is not set.
        """
        volume = self._get(name, sizes=False)
        if volume.running and not live:
            raise VolumeInUseError(
                f"volume {name} is in use: workload {volume.running[0]} runs and may write meanwhile",
                hint=f"hostctl stop {' '.join(volume.running)}, or --live, which saves files as they are at the moment",
            )
        copied = copying.copy("pack", 0, "/", descriptor, folder=self._path(name))
        event_log.write("backup", name, kind="volume", files=str(copied.files))
        return copied

    def restore(self, name: str, descriptor: int, whole: Callable[[], None], *, live: bool) -> Copied:
        """Make a volume what a tar stream says, in one step: it is unpacked beside it, and they are exchanged.

        Args:
            name: the volume, which need not be there yet.
            descriptor: the stream.
            whole: called when it has ended and nothing is in force yet; raises if it was not all of it.
            live: stop the workloads that mount it for the exchange, instead of refusing.

        Raises:
            VolumeInUseError: a workload that mounts it runs, and ``live`` is not set.
            CopyError: the stream is none, or not whole; the volume is as it was.
        """
        path = self._path(name)
        self._units(name, live=live)
        staged = self._beside(name)
        staged.mkdir(mode=0o755)
        try:
            copied = copying.copy("unpack", 0, "/", descriptor, ["keep-owner", "itself"], folder=staged)
            whole()
            run(["sync", "--file-system", staged], timeout=SYNC_SECONDS)
            # Asked once more, as unpacking may have taken long: who has it open would go on to write to the former one.
            with self._lock(), pausing.stopped(name, self._units(name, live=live), self._layout, self._machine):
                if path.is_dir():
                    _exchange(staged, path)
                else:
                    staged.rename(path)
                durable.sync_directory(path.parent)
        finally:
            with suppress(OSError):  # the next agent removes it
                remove_tree(staged)
        event_log.write("restore", name, kind="volume", files=str(copied.files))
        return copied

    def _units(self, name: str, *, live: bool) -> tuple[str, ...]:
        """Return the units that run of the workloads that have a volume mounted, and of who requires those.

        Before them comes what would start these again.

        Raises:
            VolumeInUseError: there are some, and they may not be stopped.
        """
        volume = self._get(name, sizes=False) if self._path(name).is_dir() else None
        running = volume.running if volume else ()
        if running and not live:
            raise VolumeInUseError(
                f"volume {name} is in use: workload {running[0]} runs",
                hint=f"hostctl stop {' '.join(running)}, or --live, which stops them for the exchange",
            )
        if volume is None or not live:
            return ()
        keys, stored = use(self._layout).keys, generation.current(self._layout)
        others = requiring.up(stored, self._machine, running) if stored else ()
        starters = self._machine.states([unit for each in volume.workloads for unit in starter_units(each)])
        waiting = [unit for unit, state in starters.items() if state.is_active]
        waiting += [unit for each in others for unit in each.starters]
        services = [workload_unit(key) for each in running for key in keys[each]]
        services += [unit for each in others for unit in each.services]
        return tuple(dict.fromkeys((*waiting, *services)))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep others from exchanging or removing volumes; waits for them, as that is done in a moment."""
        descriptor = os.open(self._layout.volumes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _runs(state: UnitState | None) -> bool:
    """Tell whether a unit may have a volume open, or open it at any moment.

    One that starts, or ends, is without a first process for a while. A job that was completed is active, and is over.
    """
    return state is not None and (bool(state.main_pid) or (state.is_up and not state.is_active))


def _size(path: Path) -> int:
    """Return the bytes that a tree takes on the disk; a file with several names counts once.

    Who may write to it may make any tree, also while it is looked at: what cannot be looked at, or lies in more folders
    than a backup may have, is not counted.
    """
    folder = os.open(path, _FOLDER)
    try:
        return _size_in(folder, 0, set())
    finally:
        os.close(folder)


def _size_in(folder: int, depth: int, seen: set[tuple[int, int]]) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) in seen:
                    continue
                if found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
                if not stat.S_ISDIR(found.st_mode) or depth == MAX_DEPTH:
                    continue
                below = os.open(entry.name, _FOLDER, dir_fd=folder)
            except OSError:
                continue
            try:
                total += _size_in(below, depth + 1, seen)
            finally:
                os.close(below)
    return total


def _exchange(first: Path, second: Path) -> None:
    """Exchange two folders in one step (renameat2(2))."""
    call(library().renameat2, AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
