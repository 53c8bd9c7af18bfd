"""What the root file system of a workload is made of, decided. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

from hostctl.workload import mounts
from hostctl.workload.root import ZONES, RootPlan
from hostctl.workload.spec import WorkloadSpec, layers_of


def plan(spec: WorkloadSpec) -> RootPlan:
    """Return what the root of a workload is made of."""
    wanted, zone = mounts.targets(spec), ""
    if spec.zone is not None:
        zone = f"{ZONES}/{spec.workload.timezone}"
        wanted.append(str(PurePosixPath(zone).parent))
    parents = {str(parent) for path in wanted for parent in (PurePosixPath(path), *PurePosixPath(path).parents)}
    images = {PurePosixPath(spec.volume_root(target)).name: image for target, image in spec.image_volumes.items()}
    files = {name: str(file) for image in (spec.image, *images.values()) for name, file in layers_of(image)}
    return RootPlan(
        first_id=spec.first_id,
        files=files,
        layers=tuple(name for name, _ in spec.layers),
        writable=not spec.workload.read_only,
        folders=tuple(sorted(parents - {"/"})),
        empty=tuple(sorted(mounts.target_files(spec))),
        zone=zone,
        images={where: tuple(name for name, _ in layers_of(image)) for where, image in images.items()},
    )
