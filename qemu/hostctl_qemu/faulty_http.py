"""An HTTP server for static files that fails in a chosen way; see :data:`MODES` for the ways.

For tests, and by hand: ``python -m hostctl_qemu.faulty_http FOLDER --fail segments=stall-half --port 8000``.
An honest answer honours ``Range``, one range a request, as the servers in the field do.
"""

from __future__ import annotations

import argparse
import os
import re
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from hostctl_qemu import faulty_connection, faulty_content
from hostctl_qemu.faulty_answer import Answer, Mode, Pace, honest

HONEST = "honest"
MODES: Mapping[str, Mode] = {**faulty_content.MODES, **faulty_connection.MODES}
"""The ways to fail, by name."""
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that came, and how it was answered."""

    path: str
    range: str
    mode: str


@dataclass(slots=True)
class Fault:
    """Which requests fail, how, and how many more of them."""

    part: str
    mode: str
    times: int | None


@dataclass(slots=True)
class State:
    """What the threads of a server share."""

    folder: Path
    pace: Pace
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def mode(self, path: str, asked: str) -> str:
        """Choose how to answer a request, and note it."""
        with self.lock:
            chosen = HONEST
            for fault in self.faults:
                if fault.part in path and fault.times != 0:
                    chosen = fault.mode
                    fault.times = None if fault.times is None else fault.times - 1
                    break
            self.requests.append(Request(path=path, range=asked, mode=chosen))
            return chosen


class FaultyServer:
    """Serves a folder on a port of its own while it is entered.

    Args:
        folder: what it serves.
        tls: a certificate with its key; see :func:`hostctl_qemu.faulty_tls.context`. None speaks plain HTTP.
        address: where it listens.
        port: 0 takes a free one.
        tick: seconds between the bytes of slow modes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        tick: float = 1.0,
    ) -> None:
        self._state = State(folder=folder, pace=Pace(tick=tick))
        state = self._state

        class Handler(_Handler):
            shared = state

        self._server = _Server((address, port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Return its base, with a slash at the end."""
        return f"{self._scheme}://{self._server.server_address[0]!s}:{self._server.server_port}/"

    @property
    def requests(self) -> Sequence[Request]:
        """Return what was asked so far."""
        return tuple(self._state.requests)

    def fail(self, part: str, mode: str, *, times: int | None = None) -> None:
        """Fail requests whose path has ``part`` in it.

        Args:
            part: the first fault whose part fits counts.
            mode: one of :data:`MODES`.
            times: so many requests; none means all that come.
        """
        if mode not in MODES:
            raise ValueError(f"{mode} is none of {', '.join(sorted(MODES))}")
        with self._state.lock:
            self._state.faults.append(Fault(part, mode, times))

    def heal(self) -> None:
        """Answer honestly from now on, and let go of whoever is kept waiting."""
        with self._state.lock:
            self._state.faults.clear()
        self._state.pace.release()

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self) -> None:
        """Serve until the process ends."""
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address  # clients that give up are what this server is for


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shared: State

    def do_GET(self) -> None:
        state, asked = self.shared, self.headers.get("Range", "")
        path = self.path.partition("?")[0].lstrip("/")
        file = state.folder / path
        there = ".." not in Path(path).parts and file.is_file()
        chosen = state.mode(path, asked)
        answer_by = MODES["missing"] if chosen == HONEST and not there else MODES.get(chosen, honest)
        found = _RANGE.fullmatch(asked)
        span = None if found is None else (int(found[1]), int(found[2]) + 1 if found[2] else None)
        with Content(file if there else None) as content:
            answer_by(Answer(self, content, span, state.pace))

    def log_message(self, format: str, *args: object) -> None:
        del format, args


class Content:
    """A file's bytes, read where they are asked for, so that large ones cost no memory."""

    def __init__(self, file: Path | None) -> None:
        self._descriptor = os.open(file or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on."""
        return os.pread(self._descriptor, count, start)

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def main() -> int:
    """Serve a folder by hand."""
    parser = argparse.ArgumentParser(prog="python -m hostctl_qemu.faulty_http", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument(
        "--fail", action="append", default=[], metavar="PART=MODE", help=f"modes: {', '.join(sorted(MODES))}"
    )
    arguments = parser.parse_args()
    with FaultyServer(arguments.folder, address=arguments.address, port=arguments.port) as server:
        for fault in arguments.fail:
            part, _, mode = fault.partition("=")
            server.fail(part, mode)
        print(server.url, flush=True)
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
