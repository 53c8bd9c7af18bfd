"""Tells systemd that the event loop turns, for WatchdogSec= of hostd.service (sd_notify(3), sd_watchdog_enabled(3)).

It is the loop itself that tells: an agent that is stopped, or whose loop is stuck, is silent and gets killed, which
harms nothing. How long a call takes plays no part.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

ALIVE = b"WATCHDOG=1"


def patience(environment: Mapping[str, str]) -> float:
    """Return after how many seconds of silence systemd kills this process; 0 where it does not watch it."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() else 0.0


async def feed(environment: Mapping[str, str] = os.environ) -> None:
    """Tell it twice in that time, for ever; where nobody watches, end at once."""
    seconds, address = patience(environment), environment.get("NOTIFY_SOCKET", "")
    if not seconds or not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.setblocking(False)
        while True:
            with suppress(OSError):  # a systemd that is too busy to listen is told again
                notify.sendto(ALIVE, address.replace("@", "\0", 1) if address.startswith("@") else address)
            await asyncio.sleep(seconds / 2)
