"""What a workload has changed, told from the layers of its overlay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hostctl.agent import difference
from hostctl.agent.difference import Change
from hostctl.workload.upper import OPAQUE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are devices, and trusted attributes are root's")


def test_added_changed_and_deleted(tmp_path: Path) -> None:
    lower, below, upper = (tmp_path / name for name in ("lower", "below", "upper"))
    for path in (lower / "etc", below / "srv/old", upper / "etc", upper / "srv", upper / "new"):
        path.mkdir(parents=True)
    for path in (lower / "etc/conf", lower / "gone", below / "srv/old/x", below / "hidden"):
        path.write_text("x")
    os.mknod(lower / "hidden", stat.S_IFCHR)
    (upper / "etc/conf").write_text("y")
    (upper / "new/file").symlink_to("/etc/passwd")
    (upper / "hidden").write_text("anew")
    for path in (upper / "gone", upper / "never-was"):
        os.mknod(path, stat.S_IFCHR)
    os.setxattr(upper / "srv", OPAQUE, b"y")
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (upper, lower, below)]
    found = list(difference.changes(descriptors[0], descriptors[1:]))
    for descriptor in descriptors:
        os.close(descriptor)
    assert found == [
        Change(kind="C", path="/etc"),
        Change(kind="C", path="/etc/conf"),
        Change(kind="D", path="/gone"),
        Change(kind="A", path="/hidden"),
        Change(kind="A", path="/new"),
        Change(kind="A", path="/new/file"),
        Change(kind="C", path="/srv"),
        Change(kind="D", path="/srv/old"),
    ]


def test_names_are_counted_before_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "MAX_CHANGES", 5)
    (tmp_path / "first/inner").mkdir(parents=True)
    for number in range(3):
        os.mknod(tmp_path / f"first/{number}", stat.S_IFCHR)  # of nothing below: no change at all
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert list(difference.changes(descriptor, ())) == [
        Change(kind="A", path="/first"),
        Change(kind="A", path="/first/inner"),
    ]
    (tmp_path / "first/inner/more").touch()
    with pytest.raises(difference.TooManyChangesError):
        list(difference.changes(descriptor, ()))
    os.close(descriptor)
