"""Lays the root file systems of workloads: their layers, shown with the workload's own ids, and an overlay over them.

Done for all workloads at once by the pass that runs at boot and after every change, so that starting one is crun alone;
what is laid already, and still as it should be, is left alone. At the end of a run the workload's own unit lays a fresh
root for the next one. ``python3 -I -m hostctl.workload.roots`` takes everything off, when the host stops.

A layer is mounted once for all workloads, as long as one needs it. Beside what is mounted for a workload lies what it
was made from; that is written last and removed first, so a pass that was cut is begun anew by the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hostctl import mounting
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network.namespaces import NamespaceError, user_namespace_of
from hostctl.removal import remove_tree
from hostctl.workload import root
from hostctl.workload.instance import INSTANCES, name_of
from hostctl.workload.root import BASE, POINTS, TOP, Points, RootPlan, RootPlanError

LAID = "laid"
"""File beside the mount points with what they were made from."""
FOLDER_MODE, FILE_MODE = 0o755, 0o644
STICKY = 0o1777  # of /tmp


class RootError(HostctlError):
    """Not every workload has the root file system that it should."""

    id = "workload-root"


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass has to do: whose root is removed, and whose is laid, anew if there is one."""

    remove: tuple[str, ...]
    lay: tuple[str, ...]


def decide(wanted: Mapping[str, bytes], laid: Mapping[str, bytes]) -> Work:
    """Compare what each workload's root is to be made from with what it was made from."""
    return Work(
        remove=tuple(sorted(set(laid) - set(wanted))),
        lay=tuple(sorted(key for key, made_from in wanted.items() if laid.get(key) != made_from)),
    )


def lay_all(layout: HostLayout) -> None:
    """Bring the roots of all workloads to what the generation in force says.

    Raises:
        RootError: one or more could not be laid; the others are.
    """
    with _lock(layout):
        laid = _laid(layout)
        wanted = {**_serving(layout, laid), **_wanted(layout)}
        work, failures = decide(wanted, laid), []
        for key in (*work.remove, *work.lay):
            remove(layout, key)
        if work.lay:
            failures = _lay_aside(layout, {key: wanted[key] for key in work.lay})
        _drop_layers(layout, [made_from for key, made_from in {**laid, **wanted}.items() if key not in work.remove])
    if failures:
        raise RootError(
            f"{len(failures)} of {len(wanted)} workloads have no root file system",
            details="\n".join(f"{error.brief}: {error.details}" for error in failures),
        )


def _lay_aside(layout: HostLayout, wanted: Mapping[str, bytes]) -> list[RootError]:
    """Lay fresh roots of workloads, by what they are made from, and return what failed; what was written is gone.

    Raises:
        RootError: nothing could be laid.
    """
    failures, laid = list[RootError](), dict[str, bytes]()
    try:
        with mounting.aside() as shown:
            for key, made_from in wanted.items():
                try:
                    _lay(layout, key, root.decode(made_from), shown)
                except (OSError, ValueError, RootPlanError, NamespaceError) as error:
                    details = f"{error.brief}: {error.details}" if isinstance(error, HostctlError) else str(error)
                    failures.append(RootError(f"workload {key} has no root file system", details=details))
                else:
                    laid[key] = made_from
    except OSError as error:
        raise RootError(f"{len(wanted)} workloads have no root file system", details=str(error)) from error
    for key, made_from in laid.items():
        (_folder(layout, key) / LAID).write_bytes(made_from)
    return failures


def remove(layout: HostLayout, key: str) -> None:
    """Take off all that is mounted for a workload; a container that runs from it keeps it. Nothing if nothing is."""
    folder = _folder(layout, key)
    (folder / LAID).unlink(missing_ok=True)
    for where in _mount_points(folder):
        mounting.unmount(where)
    for name in (BASE, TOP, POINTS):
        shutil.rmtree(folder / name, ignore_errors=True)


def clear(layout: HostLayout) -> None:
    """Take off everything: what is mounted keeps the state's file system from being unmounted."""
    with _lock(layout):
        for key in _keys(layout):
            remove(layout, key)
        _drop_layers(layout, [])


def _lay(layout: HostLayout, key: str, plan: RootPlan, shown: list[Path]) -> None:
    """Mount the root of one workload, and put the mount points that it adds into a list once they are all mounted."""
    folder, bundle = _folder(layout, key), layout.current / "bundles" / key
    points = [folder / name for name in plan.files]
    _close(folder, plan.first_id)
    (folder / "rootfs").mkdir(mode=FOLDER_MODE, exist_ok=True)
    _layers(layout).mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_base(folder / BASE, plan, bundle)
    for name, file in plan.files.items():
        layer = _layers(layout) / name
        if not os.path.ismount(layer):
            layer.mkdir(mode=FOLDER_MODE, exist_ok=True)
            mounting.erofs(Path(file), layer)
            shown.append(layer)
    with user_namespace_of(plan.first_id) as users:
        for point in points:
            point.mkdir(mode=FOLDER_MODE, exist_ok=True)
            mounting.mapped(_layers(layout) / point.name, point, users)
    for where, names in plan.images.items():
        place, points_of = folder / "images" / where, folder / POINTS / where
        for path, mode in ((place.parent, 0o711), (place, FOLDER_MODE), (points_of.parent, 0o711)):
            path.mkdir(mode=mode, exist_ok=True)
        _make_points(points_of, plan.points.get(where, Points()), plan.first_id)
        # Empty or not, it makes two layers of one: an overlay without an upper one wants as many.
        mounting.overlay([*(folder / name for name in reversed(names)), points_of], place)
        points.append(place)
    _mount_root(layout, key, plan, bundle)
    shown += [*points, folder / "rootfs"]


def _close(folder: Path, group: int) -> None:
    """Make a folder that only host root sees into, and a workload's root goes through: the runtime looks its root file
    system up as that. Anybody else of the host could read, write to and run what the workload leaves open to all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(folder, 0, group)
    folder.chmod(0o710)


def _make_base(base: Path, plan: RootPlan, bundle: Path) -> None:
    """Make the lowest layer: the mount points that the image may lack, all of them the workload's own."""
    _make_points(base, Points(folders=plan.folders, empty=plan.empty), plan.first_id)
    if plan.zone:
        _write(f"{base}{plan.zone}", (bundle / root.LOCALTIME).read_bytes(), plan.first_id)


def _make_points(top: Path, points: Points, owner: int) -> None:
    _own(str(top), owner, FOLDER_MODE)
    for path in points.folders:
        _own(f"{top}{path}", owner, STICKY if path == "/tmp" else FOLDER_MODE)  # noqa: S108
    for path in points.empty:
        _write(f"{top}{path}", b"", owner)


def _mount_root(layout: HostLayout, key: str, plan: RootPlan, bundle: Path) -> None:
    folder = _folder(layout, key)
    lower = [folder / name for name in plan.lower]
    if plan.zone:
        top = folder / TOP
        for path in (top, top / "etc"):
            _own(str(path), plan.first_id, FOLDER_MODE)
        _write(f"{top}/etc/localtime", (bundle / root.LOCALTIME).read_bytes(), plan.first_id)
    if not plan.writable:
        mounting.overlay(lower, folder / "rootfs")
        return
    state = layout.workloads / key
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    for name in ("upper", "work"):
        remove_tree(state / name)
    _own(f"{state}/upper", plan.first_id, FOLDER_MODE)
    (state / "work").mkdir(mode=0o700)
    mounting.overlay(lower, folder / "rootfs", upper=state / "upper", work=state / "work")


def _own(folder: str, owner: int, mode: int) -> None:
    """Make a folder of the workload's. There are a dozen for each workload, so their paths are plain text."""
    os.mkdir(folder)  # noqa: PTH102
    os.chmod(folder, mode)  # noqa: PTH101
    os.chown(folder, owner, owner)


def _write(file: str, data: bytes, owner: int) -> None:
    with open(file, "wb") as opened:  # noqa: PTH123
        opened.write(data)
    os.chmod(file, FILE_MODE)  # noqa: PTH101
    os.chown(file, owner, owner)


def _folder(layout: HostLayout, key: str) -> Path:
    return layout.runtime / "workloads" / key


def _layers(layout: HostLayout) -> Path:
    return layout.runtime / "layers"


def _keys(layout: HostLayout) -> tuple[str, ...]:
    folder = layout.runtime / "workloads"
    return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()


def _mount_points(folder: Path) -> Iterator[Path]:
    """Yield what may be mounted for a workload, what lies over others first."""
    yield folder / "rootfs"
    if (folder / "images").is_dir():
        yield from sorted((folder / "images").iterdir())
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in ("rootfs", "images"))


def _laid(layout: HostLayout) -> dict[str, bytes]:
    """Return what there is, by workload; nothing stands for a root that was not laid to its end."""
    found = {}
    for key in _keys(layout):
        folder = _folder(layout, key)
        with suppress(FileNotFoundError):
            found[key] = (folder / LAID).read_bytes()
        if key not in found and any(map(os.path.ismount, _mount_points(folder))):
            found[key] = b""
    return found


def _wanted(layout: HostLayout) -> dict[str, bytes]:
    """Return what the roots of the generation in force are to be made from.

    It has the bundles of instances that were about to leave as well; they have a root until they have left.
    """
    bundles = layout.current / "bundles"
    folders = sorted(bundles.iterdir()) if bundles.is_dir() else []
    found = {path.name: (path / root.FILE).read_bytes() for path in folders if (path / root.FILE).is_file()}
    if layout.changing_network.exists() or not any(map(_letter, found)):
        return found
    live = json.loads((layout.current / "generation.json").read_bytes())["instances"]
    return {key: data for key, data in found.items() if not _letter(key) or live.get(name_of(key)) == _letter(key)}


def _serving(layout: HostLayout, laid: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those of instances while workloads have two: what is gone back from still serves who came to it.

    The generation in force has nothing of it any more. Who lets it leave takes its root off.
    """
    if not layout.changing_network.exists():
        return {}
    return {key: made_from for key, made_from in laid.items() if made_from and _letter(key)}


def _letter(key: str) -> str:
    """Return the letter of one of two instances that take turns; nothing of any other container."""
    letter = key.partition(".")[2]
    return letter if letter in INSTANCES else ""


def _drop_layers(layout: HostLayout, needed: Sequence[bytes]) -> None:
    """Take off the layers that no workload needs any more."""
    try:
        names = {name for made_from in needed if made_from for name in root.decode(made_from).files}
    except RootPlanError:
        return  # whose root that is was told already; what it needs is not known
    folder = _layers(layout)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in names:
            mounting.unmount(path)
            path.rmdir()


@contextmanager
def _lock(layout: HostLayout) -> Iterator[None]:
    layout.runtime.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.runtime / "roots.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    clear(HostLayout())
