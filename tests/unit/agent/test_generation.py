"""What a stored generation holds, for the agent and for the initrd."""

from dataclasses import replace
from pathlib import Path

from hostctl.agent.generation import (
    Content,
    Record,
    current,
    numbers,
    prune,
    put_in_force,
    set_aside,
    store,
    taken,
    uids,
)
from hostctl.layout import HostLayout


def content(number: int, release: str = "7") -> Content:
    record = Record(
        number=number,
        created="2026-01-01T00:00:00+00:00",
        release=release,
        declaration_sha256="0" * 64,
        images={},
        uids={},
        ranges={},
    )
    return Content(record=record, declaration="version: 1\n", etc={}, bundles={}, network=b"{}")


def test_the_initrd_finds_the_release_that_rendered_a_generation(tmp_path: Path) -> None:
    stored = store(HostLayout(tmp_path), content(1, "2026.11.1"))
    assert (stored.path / "release").read_text() == "2026.11.1\n"


def test_a_generation_is_in_force_only_when_it_is_told_so(tmp_path: Path) -> None:
    layout = HostLayout(tmp_path)
    store(layout, content(1))
    assert current(layout) is None
    put_in_force(layout, 1)
    found = current(layout)
    assert found is not None
    assert found.record.number == 1
    assert layout.current.readlink() == Path("generations/1")


def test_what_may_hold_secrets_is_root_s_alone(tmp_path: Path) -> None:
    bundles = {"site": dict.fromkeys(("config.json", "health-process.json", "hosts", "config-json"), b"{}")}
    stored = store(HostLayout(tmp_path), replace(content(1), bundles=bundles))
    modes = {path.name: path.stat().st_mode & 0o777 for path in stored.path.rglob("*") if path.is_file()}
    assert modes["host.yaml"] == modes["config.json"] == modes["health-process.json"] == 0o600
    assert modes["hosts"] == modes["config-json"] == modes["generation.json"] == 0o644


def test_pruning_never_takes_the_generation_in_force(tmp_path: Path) -> None:
    layout = HostLayout(tmp_path)
    for number in range(1, 8):
        store(layout, content(number))
    put_in_force(layout, 1)
    prune(layout, keep=2)
    assert 1 in numbers(layout)
    assert len(numbers(layout)) <= 4


def test_one_that_is_set_aside_keeps_its_number_and_those_of_its_users(tmp_path: Path) -> None:
    layout = HostLayout(tmp_path)
    for number, known in ((1, {"ops": 1000}), (2, {"ops": 1000, "eve": 1001}), (3, {"ops": 1000, "eve": 1002})):
        made = content(number)
        store(layout, replace(made, record=replace(made.record, uids=known)))
    (layout.generations / "4.tmp").mkdir()
    set_aside(layout, 3)
    assert (numbers(layout), taken(layout)) == ([1, 2], [1, 2, 3])
    assert uids(layout) == {"ops": 1000, "eve": 1002}
    (layout.generations / "3.newer/generation.json").write_text("{}")
    assert uids(layout) == {"ops": 1000, "eve": 1001}
