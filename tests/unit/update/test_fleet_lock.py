"""Turns to restart, against a server that speaks the protocol over HTTP, and one that does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostctl_lab.lock_server import Fault, LockServer

from hostctl.update import fleet_lock
from hostctl.update.fleet_lock import LockRefusedError, LockUnavailableError, Turn, TurnStateError

MACHINE = "3d1219c7c4c5404aaa1f6d2a48adfda4"


@pytest.fixture
def server() -> Iterator[LockServer]:
    with LockServer() as server:
        yield server


def turn(server: LockServer, machine: str = MACHINE) -> Turn:
    return Turn(url=server.url, group="web", id=fleet_lock.identity(machine), boot="boot-1")


def test_the_identity_is_what_systemd_makes_of_the_machine_id() -> None:
    # systemd-id128 machine-id --app-specific=14e56b9e37134d5fa19abcf2ad73ad95
    assert fleet_lock.identity(MACHINE) == "43ca0c2041a4402c95faa54c89215051"


def test_a_turn_is_taken_kept_over_the_restart_and_given_back_once(tmp_path: Path, server: LockServer) -> None:
    taken = fleet_lock.take(tmp_path, turn(server))
    assert taken.granted
    assert server.holders == {"web": {taken.id}}
    assert fleet_lock.read(tmp_path) == taken
    assert not fleet_lock.give_back(tmp_path, "boot-1")  # still to restart
    assert fleet_lock.give_back(tmp_path, "boot-2")
    assert not fleet_lock.give_back(tmp_path, "boot-2")
    assert list(server.paths()) == ["pre-reboot", "steady-state"]
    assert server.holders == {"web": set()}
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_give_a_turn_back_once(tmp_path: Path, server: LockServer) -> None:
    fleet_lock.take(tmp_path, turn(server))
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.append(fleet_lock.give_back(tmp_path, "boot-2"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False] * 7 + [True]
    assert list(server.paths()).count("steady-state") == 1


def test_only_so_many_have_a_turn(tmp_path: Path, server: LockServer) -> None:
    other = turn(server, "0" * 32)
    fleet_lock.take(tmp_path / "other", other)
    with pytest.raises(LockRefusedError, match=r"409 \(failed_lock_semaphore_full, "):
        fleet_lock.take(tmp_path / "here", turn(server))
    assert fleet_lock.read(tmp_path / "here") is None
    fleet_lock.give_back(tmp_path / "other", "boot-2")
    assert fleet_lock.take(tmp_path / "here", turn(server)).granted


def test_a_turn_that_was_called_off_goes_back_in_the_same_boot(tmp_path: Path, server: LockServer) -> None:
    fleet_lock.call_off(tmp_path)
    assert fleet_lock.read(tmp_path) is None
    fleet_lock.take(tmp_path, turn(server))
    fleet_lock.call_off(tmp_path)
    assert fleet_lock.give_back(tmp_path, "boot-1")
    assert server.holders == {"web": set()}


def test_a_turn_of_another_server_is_given_back_before_one_is_asked_for(tmp_path: Path, server: LockServer) -> None:
    fleet_lock.take(tmp_path, turn(server))
    moved = replace(turn(server), group="db")
    server.faults = ["error"]
    with pytest.raises(LockUnavailableError):
        fleet_lock.take(tmp_path, moved)
    kept = fleet_lock.read(tmp_path)
    assert kept is not None
    assert kept.group == "web"
    assert fleet_lock.take(tmp_path, moved).granted
    assert server.holders == {"web": set(), "db": {moved.id}}


@pytest.mark.parametrize("fault", ["refuse", "huge"])
def test_a_refusal_leaves_nothing_to_give_back(tmp_path: Path, server: LockServer, fault: Fault) -> None:
    server.faults = [fault]
    with pytest.raises(LockRefusedError) as caught:
        fleet_lock.take(tmp_path, turn(server))
    assert caught.value.exit_code == 75
    assert caught.value.brief.isprintable()
    assert len(caught.value.brief) < 400
    assert fleet_lock.read(tmp_path) is None


@pytest.mark.parametrize("fault", ["error", "redirect", "garbage", "close", "lost"])
def test_a_question_without_a_clear_answer_is_given_back_after_the_boot(
    tmp_path: Path, server: LockServer, fault: Fault
) -> None:
    server.faults = [fault]
    with pytest.raises(LockUnavailableError):
        fleet_lock.take(tmp_path, turn(server))
    asked = fleet_lock.read(tmp_path)
    assert asked is not None
    assert not asked.granted
    server.faults = [fault, "error"]
    for _ in range(2):  # giving back fails as well, and is not forgotten
        with pytest.raises(LockUnavailableError):
            fleet_lock.give_back(tmp_path, "boot-2")
    assert fleet_lock.give_back(tmp_path, "boot-2")
    assert server.holders.get("web", set()) == set()


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_never_comes_to_an_end_is_left_in_time(
    tmp_path: Path, server: LockServer, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_lock, "TOTAL_SECONDS", 1.0)
    server.faults = [fault]
    began = time.monotonic()
    with pytest.raises(LockUnavailableError, match="takes too long"):
        fleet_lock.take(tmp_path, turn(server))
    assert time.monotonic() - began < 10


def test_a_server_that_is_not_there(tmp_path: Path, server: LockServer) -> None:
    gone = replace(turn(server), url="http://127.0.0.1:9")
    with pytest.raises(LockUnavailableError, match="does not answer") as caught:
        fleet_lock.take(tmp_path, gone)
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 9999], ids=range(6))
def test_a_damaged_note_is_no_turn(tmp_path: Path, data: bytes) -> None:
    (tmp_path / fleet_lock.NAME).write_bytes(data)
    assert fleet_lock.read(tmp_path) is None
    assert not fleet_lock.give_back(tmp_path, "boot-2")


def test_nothing_is_asked_when_it_cannot_be_written_down(tmp_path: Path, server: LockServer) -> None:
    (tmp_path / fleet_lock.NAME).mkdir()
    with pytest.raises(TurnStateError):
        fleet_lock.take(tmp_path, turn(server))
    assert server.asked == []
