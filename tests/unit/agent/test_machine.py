"""What the edge to the running system reads."""

from __future__ import annotations

import os
from pathlib import Path

from hostctl.agent.machine import SystemdMachine
from hostctl.layout import HostLayout


def test_health_is_that_of_this_run_of_the_workload(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    machine = SystemdMachine(layout)
    pid = layout.runtime / "workloads/web/pid"
    said = layout.runtime / "health/web"
    for path in (pid, said):
        path.parent.mkdir(parents=True)
        path.write_text("")
    os.utime(pid, ns=(5, 5))
    assert machine.workload_health("web") == ""
    said.write_text("healthy 5")
    assert machine.workload_health("web") == "healthy"
    os.utime(pid, ns=(6, 6))
    assert machine.workload_health("web") == ""
    pid.unlink()
    assert machine.workload_health("web") == ""
