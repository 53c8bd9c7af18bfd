from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hostctl_qemu.stage_port import Edge, StagePort, StageTimeoutError

BEFORE, AFTER = Edge("root", "before"), Edge("root", "after")


@pytest.fixture
def ends() -> Iterator[tuple[StagePort, socket.socket]]:
    outside, guest = socket.socketpair()
    guest.settimeout(5)
    port = StagePort(outside)
    yield port, guest
    port.close()
    guest.close()


def test_edges_are_answered_at_once(ends: tuple[StagePort, socket.socket]) -> None:
    port, guest = ends
    seen: list[Edge] = []
    port.watcher = seen.append
    guest.sendall(b"root be")
    guest.sendall(b"fore\n")
    assert guest.recv(10) == b"\n"
    assert port.passed == (BEFORE,)
    assert seen == [BEFORE]


def test_a_held_edge_waits_for_its_owner(ends: tuple[StagePort, socket.socket]) -> None:
    port, guest = ends
    port.hold(AFTER)
    guest.sendall(b"root before\n")
    assert guest.recv(10) == b"\n"
    guest.sendall(b"root after\n")
    assert port.wait(5) == AFTER
    guest.settimeout(0.2)
    with pytest.raises(TimeoutError):
        guest.recv(10)
    port.go_on()
    assert guest.recv(10) == b"\n"


def test_a_wait_says_what_it_waited_for_and_what_came(ends: tuple[StagePort, socket.socket]) -> None:
    port, guest = ends
    port.hold(AFTER)
    guest.sendall(b"root before\n")
    assert guest.recv(10) == b"\n"
    with pytest.raises(StageTimeoutError, match=r"root after: not within 0\.1 s") as caught:
        port.wait(0.1)
    assert "root before" in (caught.value.details or "")
    guest.shutdown(socket.SHUT_RDWR)
    with pytest.raises(StageTimeoutError, match="the machine ended"):
        port.wait(5)
