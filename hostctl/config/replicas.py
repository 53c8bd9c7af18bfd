"""What stands against running several containers of one workload. Pure.

All of them are there at once, for as long as they are declared, so there must be nothing that only one can have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hostctl.config import networks

if TYPE_CHECKING:
    from hostctl.config.host import HostDeclaration
    from hostctl.config.workload import Workload

MOST = 100
MOST_REDIRECTIONS = 1000  # published ports times replicas: each is a rule or two of the packet filter


def workload_problems(workload: Workload) -> Iterator[str]:
    """Yield what is wrong with a workload's settings by themselves, each with its place."""
    count = workload.replicas
    if not 1 <= count <= MOST:
        yield f"replicas: must be from 1 to {MOST}"
        return
    if count == 1:
        return
    if workload.type == "job":
        yield "replicas: a job runs once"
    if workload.rolls:
        yield "update.order: with replicas only stop-first is possible"
    if workload.network == "host":
        yield "network: with replicas host is not possible, because all would listen at the same ports"
    if workload.sockets:
        yield "sockets: with replicas they would have to be given to all of them; ports are spread over all"
    if workload.hostname is not None:
        yield "hostname: with replicas each has a name of its own, that of the workload with a number"
    if count * len(workload.ports) > MOST_REDIRECTIONS:
        yield f"ports: replicas times published ports must be at most {MOST_REDIRECTIONS}; a range is one port here"


def problems(declaration: HostDeclaration) -> Iterator[str]:
    """Return what is wrong between workloads with replicas and their networks, each with its place."""
    several = [name for name, workload in declaration.workloads.items() if workload.replicas > 1]
    return networks.problems_of_several(declaration, several, "replicas")
