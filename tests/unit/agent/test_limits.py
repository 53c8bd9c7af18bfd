"""Limits that change while a workload runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hostctl.agent import limits
from hostctl.agent.limits import LimitError
from hostctl.config.quantities import ByteSize
from hostctl.config.values import ImageReference
from hostctl.config.workload import Workload


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


def test_what_is_declared_holds_before_systemd_reads_its_files_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(limits, "run", lambda argv, **_: asked.append(argv))
    changed = tmp_path / limits.CONTROL / "workload-web.service.d"
    changed.mkdir(parents=True)
    workload = Workload(image=ImageReference("r.example/web:1"), memory=ByteSize(64 << 20), pids=77)
    limits.reset(["workload-web.service", "workload-web.2.service"], workload, tmp_path)
    wanted = ["MemoryMax=67108864", "CPUQuota=", "TasksMax=77"]
    assert asked == [
        ["systemctl", "set-property", "--runtime", "--", "workload-web.service", *wanted],
        ["systemctl", "daemon-reload"],
    ]
    assert not changed.exists()
