"""The way back of the state to an older release, and that a newer one never goes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.agent import apply as transaction
from hostctl.agent import generation, older, pending
from hostctl.agent.apply import Context
from hostctl.layout import HostLayout
from hostctl.update import history

from .test_apply import BASE, NEXT, FakeMachine, PowerCutError, busy, context, in_force

UNKNOWN = "version: 2\n"
"""What no release of these tests can read, as a declaration or as a record."""


def never() -> bool:
    """Say that this boot is not on trial."""
    return False


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def host(layout: HostLayout, machine: FakeMachine) -> Context:
    """Return a host on which the second declaration is in force."""
    for source in (BASE, NEXT):
        transaction.apply(source, "host.yaml", context(layout, machine))
    return context(layout, machine, booting=True)


def spoil(layout: HostLayout, number: int, file: str = "host.yaml") -> None:
    """Let a generation be one that this release cannot read."""
    (layout.generations / str(number) / file).write_text(UNKNOWN)


def test_before_the_first_there_is_none(layout: HostLayout, machine: FakeMachine) -> None:
    assert older.understood(context(layout, machine), never) is None


@pytest.mark.parametrize("unknown", ["generation.json", "host.yaml"])
def test_a_generation_of_a_newer_release_is_gone_back_from(
    layout: HostLayout, machine: FakeMachine, host: Context, unknown: str
) -> None:
    stored = older.understood(host, never)
    assert stored is not None
    assert stored.record.number == 2
    spoil(layout, 2, unknown)
    (layout.volumes / "content").mkdir(parents=True)
    (layout.esp / "EFI").mkdir(parents=True)
    stored = older.understood(host, never)
    assert stored is not None
    assert (stored.record.number, in_force(layout)) == (1, 1)
    assert machine.layer == layout.generations / "1/etc"
    assert machine.running["workload-site.service"] == "image=registry.example/site:1\n"
    assert generation.numbers(layout) == [1]
    assert (layout.generations / "2.newer").is_dir()
    assert (layout.volumes / "content").is_dir()
    assert layout.spare_declaration.read_text() == BASE
    (event,) = history.read(layout.state / "history.jsonl")
    assert event.cause == "generation 2 cannot be read by this release; 1 is in force again"


def test_a_disk_that_takes_no_history_is_no_reason_not_to_go_back(layout: HostLayout, host: Context) -> None:
    (layout.state / "history.jsonl").symlink_to("/dev/full")
    told: list[str] = []
    spoil(layout, 2)
    assert older.rerender(replace(host, notify=told.append), never) is not None
    assert in_force(layout) == 1
    assert any("the history cannot be written" in line for line in told)


def test_what_runs_of_a_generation_that_is_gone_back_from_ends(
    layout: HostLayout, machine: FakeMachine, host: Context
) -> None:
    other = NEXT.replace("web-1", "web-2").replace("db:", "new:").replace("site:2", "site:3")
    transaction.apply(other, "host.yaml", context(layout, machine))
    spoil(layout, 3)
    machine.log.clear()
    assert older.understood(host, never) is not None
    assert machine.log[:5] == ["stop workload-new.service later", "forget new", "lay", "hostname web-1", "sysctl"]
    assert "stop hostctl-metrics.socket later" in machine.log
    assert machine.running == {
        "workload-site.service": "image=registry.example/site:2\n",
        "workload-db.service": "image=registry.example/db:1\n",
    }


def test_a_number_that_was_set_aside_is_not_used_again(layout: HostLayout, machine: FakeMachine, host: Context) -> None:
    for number in (2, 3):
        spoil(layout, number)
        assert older.understood(host, never) is not None
        assert (layout.generations / f"{number}.newer").is_dir()
        assert transaction.apply(NEXT, "host.yaml", context(layout, machine)).generation == number + 1


def test_without_one_that_can_be_read_nothing_is_put_in_force(layout: HostLayout, host: Context) -> None:
    for number in (1, 2):
        spoil(layout, number)
    with pytest.raises(generation.GenerationError, match="no generation"):
        older.understood(host, never)
    assert in_force(layout) == 2


@pytest.mark.parametrize(
    ("release", "on_trial"),
    [
        pytest.param("1", True, id="on-trial"),
        pytest.param("2", False, id="started-once-after-it-was-given-up"),
    ],
)
@pytest.mark.parametrize("unknown", ["generation.json", "host.yaml"])
def test_a_newer_release_that_cannot_read_what_is_in_force_changes_nothing(
    layout: HostLayout, machine: FakeMachine, host: Context, release: str, on_trial: bool, unknown: str
) -> None:
    spoil(layout, 2, unknown)
    machine.log.clear()
    with pytest.raises(generation.GenerationError, match="cannot read generation 2; what is in force stays so"):
        older.understood(replace(host, release=release), lambda: on_trial)
    assert layout.current.readlink() == Path("generations/2")
    assert (machine.log, generation.numbers(layout)) == ([], [1, 2])
    assert not (layout.state / "history.jsonl").exists()


def cut(layout: HostLayout, machine: FakeMachine, source: str) -> None:
    """Cut the power while a declaration is tried, and boot from what is on the disk."""
    machine.cut_at = "start workload"
    with pytest.raises(PowerCutError):
        transaction.apply(source, "host.yaml", context(layout, machine))
    machine.cut_at = ""
    assert pending.read(layout) == pending.Pending(former=2, wanted=3)


@pytest.mark.parametrize("release", ["1", "2"])
def test_what_was_cut_off_is_taken_back_before_it_is_rendered_anew(
    layout: HostLayout, machine: FakeMachine, host: Context, release: str
) -> None:
    cut(layout, machine, NEXT.replace("site:2", "site:3"))
    outcome = older.rerender(replace(host, release=release), never)
    assert outcome is not None
    stored = generation.current(layout)
    assert stored is not None
    assert stored.declaration == NEXT
    assert stored.record.number == outcome.generation == (2 if release == "1" else 4)
    left = pending.read(layout)
    assert left is None if release == "1" else left == pending.Pending(former=2, wanted=4, booting=True)


@pytest.mark.parametrize(("spoiled", "left"), [(3, 2), (2, 1)])
def test_what_was_cut_off_and_can_be_read_no_more_is_left(
    layout: HostLayout, machine: FakeMachine, host: Context, spoiled: int, left: int
) -> None:
    cut(layout, machine, NEXT.replace("site:2", "site:3"))
    spoil(layout, spoiled)
    with pytest.raises(generation.GenerationError):
        older.understood(host, lambda: True)
    assert pending.read(layout) is not None
    assert older.rerender(host, never) is not None
    assert (in_force(layout), pending.read(layout)) == (left, None)
    assert (layout.generations / f"{spoiled}.newer").is_dir()


def test_a_generation_that_was_taken_back_is_not_gone_back_to(
    layout: HostLayout, machine: FakeMachine, host: Context
) -> None:
    machine.broken = "site:3"
    with pytest.raises(transaction.ApplyError):
        transaction.apply(NEXT.replace("site:2", "site:3"), "host.yaml", context(layout, machine))
    assert (in_force(layout), generation.numbers(layout)) == (2, [1, 2, 3])
    spoil(layout, 2)
    assert older.rerender(host, never) is not None
    assert in_force(layout) == 1


def test_who_changes_the_machine_is_waited_for(layout: HostLayout, host: Context) -> None:
    told: list[str] = []
    with busy(layout) as free:

        def notify(text: str) -> None:
            told.append(text)
            free.set()

        assert older.rerender(replace(host, notify=notify, release="2"), never) is not None
    assert told[0] == "waiting for another change of this machine"
    assert in_force(layout) == 3
