"""The stage cache: made once, whole, and anew when anything it depends on changes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
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
    assert all(path.suffix == ".lock" for path in (tmp_path / "stages").iterdir())


def _stage(store: Cache, name: str, size: int, moment: float) -> Path:
    def build(folder: Path) -> None:
        (folder / "out").write_bytes(b"x" * size)

    path = store.stage(name, [], [], build)
    os.utime(path, (moment, moment))
    return path


def test_prune_removes_what_is_old(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    path = _stage(store, "s", 1, 1000)
    store.close()
    assert Cache(tmp_path).prune(10, now=1005) == ()
    assert Cache(tmp_path).prune(10, now=1015) == (path,)
    assert not path.exists()


def test_prune_removes_the_longest_unused_until_the_rest_fits(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    paths = [_stage(store, name, 1 << 20, moment) for name, moment in (("a", 3), ("b", 1), ("c", 2))]
    store.close()
    assert Cache(tmp_path).prune(age=100, limit=(5 << 20) // 2, now=4) == (paths[1],)


def test_prune_keeps_what_this_builder_used(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    path = _stage(store, "s", 1, 0)
    assert store.prune(age=1, limit=0, now=100) == ()
    assert path.exists()


def test_prune_waits_until_nobody_else_builds(tmp_path: Path) -> None:
    other = Cache(tmp_path)
    path = _stage(other, "s", 1, 0)
    half = tmp_path / "stages/.half.0.tmp"
    half.mkdir()
    assert Cache(tmp_path).prune(age=1, now=100) == ()
    other.close()
    assert Cache(tmp_path).prune(age=1, now=100) == (path,)
    assert not half.exists()


def test_two_builders_make_a_stage_once_and_different_ones_side_by_side(tmp_path: Path) -> None:
    built: list[str] = []
    both = threading.Barrier(2, timeout=30)

    def meet(folder: Path) -> None:
        both.wait()  # passes only while the other stage is being made as well
        built.append(folder.name)

    def one(word: str) -> Path:
        return Cache(tmp_path).stage("s", [], [word], meet)

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(one, ["a", "b", "a", "b"]))
    assert len(built) == len(set(paths)) == 2
