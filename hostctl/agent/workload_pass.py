"""The pass that makes what all workloads stand on: their root file systems, then their networks.

Run by ``hostctl-network.service`` as ``python3 -I -m hostctl.agent.workload_pass``, at boot and after every change. One
process for all, and a second pass changes nothing: see :mod:`hostctl.workload.roots` and :mod:`hostctl.network.apply`.
A root that cannot be laid keeps nobody's network from being made; the pass then ends with a failure, and is repeated.
"""

from __future__ import annotations

import sys

from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network import apply
from hostctl.workload import roots


def run(layout: HostLayout) -> int:
    """Run the pass and return its exit status."""
    status = 0
    for step in (roots.lay_all, _connect):
        try:
            step(layout)
        except HostctlError as error:
            print(error.render(), file=sys.stderr)
            status = error.exit_code
    return status


def _connect(layout: HostLayout) -> None:
    apply.network_pass(layout, apply.in_force(layout))


if __name__ == "__main__":
    sys.exit(run(HostLayout()))
