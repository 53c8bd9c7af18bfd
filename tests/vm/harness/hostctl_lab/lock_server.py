"""A FleetLock server for tests, on loopback; a guest reaches it at 10.0.2.2. It counts, and answers badly when told to.

Protocol: https://coreos.github.io/zincati/development/fleetlock/protocol/
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Fault = Literal["refuse", "error", "redirect", "garbage", "close", "drip", "hang", "huge", "lost"]
"""lost: done, but the answer never arrives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request that kept to the protocol."""

    path: str
    id: str
    group: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, owner: LockServer) -> None:  # noqa: ANN401 - what socketserver gives
        self.owner = owner
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        fault = self.owner.faults.pop(0) if self.owner.faults else None
        if fault is not None and fault != "lost":
            self._fail(fault)
            return
        status, kind = self.owner.answer(self.path, self.headers.get("fleet-lock-protocol", ""), body)
        if fault == "lost":
            self.close_connection = True
            return
        self._send(status, json.dumps({"kind": kind, "value": f"{kind} it is"}).encode() if kind else b"")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        match fault:
            case "refuse":
                self._send(409, b'{"kind": "failed_lock", "value": "all\\nslots\\u001b[2J are taken"}')
            case "error":
                self._send(500, b"<html>Internal Server Error</html>")
            case "redirect":
                self._send(302, b"", location=f"http://127.0.0.1:{self.owner.port}/elsewhere")
            case "garbage":
                self.wfile.write(b"\0\xff" * 64 + b"\r\n\r\n")
            case "huge":
                self._send(409, b"[" * (4 << 20))
            case "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
                while not self.owner.ended.wait(0.05):
                    self.wfile.write(b"x")
            case "hang":
                self.owner.ended.wait(600)
            case _:
                pass
        self.close_connection = True


class LockServer:
    """Has so many slots in each group. ``faults`` are taken one a request, before anything else."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.holders: dict[str, set[str]] = {}
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, owner=self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="fleet-lock", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address on this machine."""
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> Iterator[str]:
        """Yield what was asked, in order: the last part of each path."""
        return (asked.path.rpartition("/")[2] for asked in self.asked)

    def answer(self, path: str, header: str, body: bytes) -> tuple[int, str]:
        """Return status and kind of refusal of a request."""
        try:
            client = json.loads(body)["client_params"]
            asked = Asked(path=path, id=client["id"], group=client["group"])
        except (ValueError, KeyError, TypeError):
            return 400, "not_the_protocol"
        if header != "true":
            return 400, "no_header"
        with self._lock:
            self.asked.append(asked)
            holders = self.holders.setdefault(asked.group, set())
            if path == "/v1/steady-state":
                holders.discard(asked.id)
                return 200, ""
            if path != "/v1/pre-reboot":
                return 404, "no_such_path"
            if asked.id not in holders and len(holders) >= self.slots:
                return 409, "failed_lock_semaphore_full"
            holders.add(asked.id)
            return 200, ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
