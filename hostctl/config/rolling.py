"""What stands against starting a changed workload beside the running one, and against renewing its image. Pure.

Two instances of a workload run at once for a while, so it must have nothing that only one of them can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hostctl.config import networks

if TYPE_CHECKING:
    from hostctl.config.host import HostDeclaration
    from hostctl.config.workload import Workload

LONGEST_DRAIN = 600.0  # seconds


def workload_problems(workload: Workload) -> Iterator[str]:
    """Yield what is wrong with a workload's settings by themselves, each with its place."""
    if workload.auto_update and workload.image.digest is not None:
        yield "auto_update: the image is named by its digest, so it never changes"
    if workload.auto_update and workload.pull_policy == "never":
        yield "auto_update: with pull_policy: never no registry is asked for another image"
    if not workload.rolls:
        return
    if workload.type == "job":
        yield "update.order: a job ends by itself, so start-first means nothing"
        return
    if workload.healthcheck is None and not workload.notify:
        yield "update.order: start-first needs a healthcheck or notify, or nobody knows when the new one is ready"
    if workload.network != "private":
        yield "network: only private is possible with update.order: start-first, so that each instance has its own"
    if workload.sockets:
        yield "sockets: with update.order: start-first they would have to be given to both instances"
    for index, mount in enumerate(workload.volumes):
        if not mount.read_only:
            again = f"{str(mount).removesuffix(':rw')}:ro"
            yield f"volumes[{index}]: with update.order: start-first two instances would write; {again} is possible"
    for index, port in enumerate(workload.ports):
        if port.protocol == "udp":
            yield f"ports[{index}]: with update.order: start-first only tcp is possible, whose connections have an end"


def renewed(declaration: HostDeclaration) -> tuple[str, ...]:
    """Return the names of the workloads whose images are looked up again."""
    return tuple(str(name) for name, workload in declaration.workloads.items() if workload.auto_update)


def problems(declaration: HostDeclaration) -> Iterator[str]:
    """Return what is wrong between workloads that are started first and their networks, each with its place."""
    several = [name for name, workload in declaration.workloads.items() if workload.rolls]
    return networks.problems_of_several(declaration, several, "update.order: start-first")
