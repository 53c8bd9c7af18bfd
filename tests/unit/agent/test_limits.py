"""Limits that change while a workload runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import limits
from hostctl.agent.limits import LimitError


def test_what_systemd_is_told() -> None:
    wanted = {"memory": "64M", "cpus": "1.5", "pids": "100"}
    assert limits.settings(wanted) == ("MemoryMax=67108864", "CPUQuota=150.00%", "TasksMax=100")
    assert limits.settings(dict.fromkeys(wanted, "none")) == ("MemoryMax=infinity", "CPUQuota=", "TasksMax=infinity")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory", "lots"),
        ("memory", ""),
        ("cpus", "-1"),
        ("pids", "0"),
        ("pids", "4194305"),
        ("pids", "1\nX=1"),
        ("io", "1"),
    ],
)
def test_what_is_no_limit_is_refused(name: str, text: str) -> None:
    with pytest.raises(LimitError):
        limits.settings({name: text})


def test_nothing_to_forget_asks_systemd_nothing(tmp_path: Path) -> None:
    assert limits.forget(["workload-web.service"], tmp_path) is False
