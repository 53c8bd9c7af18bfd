"""The workloads' part of a generation on this host."""

from __future__ import annotations

from hostctl.agent.generation import Stored
from hostctl.agent.stage import Rendered
from hostctl.config.host import HostDeclaration
from hostctl.errors import HostctlError


class WorkloadsUnsupportedError(HostctlError):
    """This release has nothing that runs workloads."""

    id = "workloads-unsupported"


def render_workloads(declaration: HostDeclaration, former: Stored | None, number: int) -> Rendered:
    """Return the units, bundles and network of all workloads.

    Raises:
        WorkloadsUnsupportedError: workloads are declared, but this release cannot run them.
    """
    del former, number
    if declaration.workloads:
        names = ", ".join(str(name) for name in declaration.workloads)
        raise WorkloadsUnsupportedError(f"this release cannot run workloads, but {names} is declared")
    return Rendered()
