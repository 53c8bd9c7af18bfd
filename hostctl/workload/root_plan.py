"""What the root file system of a workload is made of, decided. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from hostctl.workload import mounts
from hostctl.workload.root import ZONES, Points, RootPlan
from hostctl.workload.spec import WorkloadSpec, layers_of


def plan(spec: WorkloadSpec) -> RootPlan:
    """Return what the root of a workload is made of."""
    wanted, zone = mounts.targets(spec), ""
    if spec.zone is not None:
        zone = f"{ZONES}/{spec.workload.timezone}"
        wanted.append(str(PurePosixPath(zone).parent))
    points = _points("/", wanted, mounts.target_files(spec))
    images = {PurePosixPath(spec.volume_root(target)).name: image for target, image in spec.image_volumes.items()}
    files = {name: str(file) for image in (spec.image, *images.values()) for name, file in layers_of(image)}
    return RootPlan(
        first_id=spec.first_id,
        files=files,
        layers=tuple(name for name, _ in spec.layers),
        writable=not spec.workload.read_only,
        folders=points.folders,
        empty=points.empty,
        zone=zone,
        images={where: tuple(name for name, _ in layers_of(image)) for where, image in images.items()},
        points={
            PurePosixPath(spec.volume_root(target)).name: _points(target, wanted, mounts.target_files(spec))
            for target in spec.image_volumes
        },
    )


def _points(below: str, folders: list[str], files: list[str]) -> Points:
    """Return the mount points below a folder, by their paths in it; ``files`` lie in ``folders``."""
    top = PurePosixPath(below)
    every = {parent for path in folders for parent in (PurePosixPath(path), *PurePosixPath(path).parents)}

    def inside(paths: Iterable[PurePosixPath]) -> tuple[str, ...]:
        return tuple(sorted(f"/{path.relative_to(top)}" for path in paths if top in path.parents))

    return Points(folders=inside(every), empty=inside(map(PurePosixPath, files)))
