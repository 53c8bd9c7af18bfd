"""The pass that makes what all workloads stand on: their root file systems, and beside that their networks.

Run by ``hostctl-network.service`` as ``python3 -I -m hostctl.agent.workload_pass``, at boot and after every change, for
all of them, and a second pass changes nothing: see :mod:`hostctl.workload.roots` and :mod:`hostctl.network.apply`.
Roots are laid in a child process, as loading what networks need takes as long. What cannot be had of the one keeps
nothing of the other from being made; the pass then ends with a failure, and is repeated.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from hostctl.errors import HostctlError
from hostctl.layout import HostLayout


def run(layout: HostLayout) -> int:
    """Run the pass and return its exit status."""
    child = os.fork()
    if child == 0:
        os._exit(_done(_lay, layout))
    status = _done(_connect, layout)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or status


def _done(step: Callable[[HostLayout], None], layout: HostLayout) -> int:
    """Do one half and return its exit status; nothing that goes wrong in it ends the other."""
    try:
        step(layout)
    except HostctlError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _lay(layout: HostLayout) -> None:
    from hostctl.workload import roots  # noqa: PLC0415 - loaded where it is needed, beside the other

    roots.lay_all(layout)


def _connect(layout: HostLayout) -> None:
    from hostctl.network import apply  # noqa: PLC0415 - as above

    apply.network_pass(layout, apply.in_force(layout))


if __name__ == "__main__":
    sys.exit(run(HostLayout()))
