"""Answers Prometheus on a socket that systemd holds: there while it is asked, gone a minute after.

Only ``GET /metrics`` exists. A client that is slow or silent is given up; nobody can make the process live for ever or
grow, because each connection is bounded in time and there are few at once.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

from hostctl.agent.metrics import CONTENT_TYPE
from hostctl.errors import HostctlError

FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
IDLE = 60.0  # seconds
CLIENT_SECONDS = 10.0
AT_ONCE = 4


class NoSocketError(HostctlError):
    """systemd handed no socket over."""

    id = "no-socket"


class _Handler(BaseHTTPRequestHandler):
    server_version = "hostctl"
    sys_version = ""
    timeout = CLIENT_SECONDS
    page: Callable[[], str]

    def do_GET(self) -> None:
        """Answer, and end the connection."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "text/plain; charset=utf-8", "only /metrics is here\n")
            return
        try:
            text = type(self).page()
        except (HostctlError, OSError, ValueError) as error:
            self._answer(500, "text/plain; charset=utf-8", f"{error}\n")
        else:
            self._answer(200, CONTENT_TYPE, text)

    def _answer(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a line a scrape would fill the journal."""
        del format, arguments


class Server(HTTPServer):
    """Serves each connection in a thread that is ended with its time."""

    def __init__(self, listening: socket.socket, page: Callable[[], str], idle: float = IDLE) -> None:
        handler = type("Handler", (_Handler,), {"page": staticmethod(page)})
        super().__init__(listening.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.timeout = idle
        self.idle = False
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def handle_timeout(self) -> None:
        """Note that nobody came."""
        self.idle = True

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread; when all are busy, the next waits."""
        assert isinstance(request, socket.socket)  # noqa: S101 - of a stream server
        self._slots.acquire()
        threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        timer = threading.Timer(CLIENT_SECONDS, _cut, (request,))
        timer.daemon = True
        timer.start()
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client went away, or was cut off
        finally:
            timer.cancel()
            self.shutdown_request(request)
            self._slots.release()

    def until_idle(self) -> None:
        """Serve until nobody asks any more."""
        while not self.idle:
            self.handle_request()


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


def inherited(environment: dict[str, str], pid: int) -> socket.socket:
    """Return the listening socket that systemd handed over (sd_listen_fds(3)).

    Raises:
        NoSocketError: there is none, or more than one.
    """
    if environment.get("LISTEN_PID") != str(pid) or environment.get("LISTEN_FDS") != "1":
        raise NoSocketError("no socket was handed over", hint="hostctl-metrics.socket starts this")
    return socket.socket(fileno=FIRST_DESCRIPTOR)
