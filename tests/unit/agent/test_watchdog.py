"""What systemd is told while the event loop turns, and not when it stands still."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hostctl.agent import watchdog


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5)
        yield made


def environment(listener: socket.socket, **more: str) -> Mapping[str, str]:
    return {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "200000", **more}


def test_systemd_hears_while_the_loop_turns_and_not_when_it_stands(listener: socket.socket) -> None:
    async def turn() -> None:
        feeding = asyncio.ensure_future(watchdog.feed(environment(listener, WATCHDOG_PID=str(os.getpid()))))
        for _ in range(3):
            assert await asyncio.to_thread(listener.recv, 64) == b"WATCHDOG=1"
        time.sleep(0.5)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(64)
        feeding.cancel()

    asyncio.run(turn())


@pytest.mark.parametrize(
    "more",
    [
        {"WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": ""},
    ],
)
def test_where_nobody_watches_nobody_is_told(listener: socket.socket, more: Mapping[str, str]) -> None:
    asyncio.run(asyncio.wait_for(watchdog.feed(environment(listener, **more)), 5))
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(64)


def test_a_systemd_that_does_not_listen_disturbs_nobody(tmp_path: Path) -> None:
    async def turn() -> None:
        feeding = asyncio.ensure_future(
            watchdog.feed({"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "20000"})
        )
        await asyncio.sleep(0.1)
        assert not feeding.done()
        feeding.cancel()

    asyncio.run(turn())
