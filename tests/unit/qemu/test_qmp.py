from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hostctl_qemu.qmp import Qmp, QmpError, split_lines

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@contextmanager
def qemu(replies: dict[str, list[bytes]]) -> Iterator[socket.socket]:
    """A server that answers each command by the given pieces, one send each."""
    client, server = socket.socketpair()

    def serve() -> None:
        with server, server.makefile("rb") as requests:
            server.sendall(GREETING)
            for line in requests:
                command = json.loads(line)["execute"]
                for piece in replies.get(command, [b'{"return": {}}\r\n']):
                    server.sendall(piece)
                if command == "quit":
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield client
    finally:
        client.close()
        thread.join(5)


def test_reply_in_pieces_with_event_before_it() -> None:
    pieces = [b'{"event": "STOP", "da', b'ta": {"a": 1}}\r\n{"retu', b'rn": {"status": "paused"}}\r\n']
    with qemu({"query-status": pieces}) as connection:
        qmp = Qmp(connection, 5)
        assert qmp.execute("query-status", seconds=5) == {"status": "paused"}
        assert qmp.wait_event("STOP", 5).data == {"a": 1}


def test_refusal_carries_the_reason() -> None:
    with qemu({"x": [b'{"error": {"class": "CommandNotFound", "desc": "no x"}}\n']}) as connection:
        with pytest.raises(QmpError) as caught:
            Qmp(connection, 5).execute("x", seconds=5)
        assert "no x" in caught.value.details


def test_silence_ends_at_the_deadline() -> None:
    with qemu({"slow": []}) as connection, pytest.raises(QmpError, match="reply to slow in time"):
        Qmp(connection, 5).execute("slow", seconds=0.05)


def test_end_of_qemu_is_told() -> None:
    with qemu({"quit": []}) as connection, pytest.raises(QmpError, match="ended"):
        Qmp(connection, 5).execute("quit", seconds=5)


def test_events_not_accepted_are_skipped() -> None:
    events = b"".join(
        b'{"event": "MIGRATION", "data": {"status": "%s"}}\n' % word for word in (b"setup", b"active", b"completed")
    )
    with qemu({"migrate": [b'{"return": {}}\n' + events]}) as connection:
        qmp = Qmp(connection, 5)
        qmp.execute("migrate", seconds=5)
        event = qmp.wait_event("MIGRATION", 5, lambda e: e.data["status"] == "completed")
        assert event.data == {"status": "completed"}


def test_lines_are_split_at_ends_only() -> None:
    assert split_lines(b"a\r\n\r\nb\nc") == ([b"a", b"b"], b"c")
