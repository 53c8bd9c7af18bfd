"""The stage cache: made once, whole, and anew when anything it depends on changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.compose import cache
from hostctl.compose.cache import Cache, stage_id


def test_id_depends_on_every_part() -> None:
    ids = {
        stage_id(*parts)
        for parts in (
            ("a", [b"x"], ["1"]),
            ("b", [b"x"], ["1"]),
            ("a", [b"y"], ["1"]),
            ("a", [b"x"], ["2"]),
            ("a", [b"x"], ["1", ""]),
        )
    }
    assert len(ids) == 5


def test_made_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "out").write_text("x")

    store = Cache(tmp_path)
    first = store.stage("s", [cache], ["1"], build)
    assert store.stage("s", [cache], ["1"], build) == first
    assert (first / "out").read_text() == "x"
    assert len(built) == 1
    assert store.stage("s", [cache], ["2"], build) != first


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Cache(tmp_path).stage("s", [], [], build)
    assert [path.name for path in (tmp_path / "stages").iterdir()] == [".s.lock"]


def test_prune(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    path = store.stage("s", [], [], lambda folder: None)
    now = path.stat().st_mtime
    assert store.prune(10, now + 5) == ()
    assert store.prune(10, now + 15) == (path,)
    assert not path.exists()
