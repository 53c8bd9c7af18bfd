"""A plain HTTP server for repositories, on loopback; the guest reaches it at 10.0.2.2.

It can hold an answer in the middle of a file, so that a test knows where a transfer stands when it cuts the power.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

CHUNK = 1 << 16
GUEST_ADDRESS = "10.0.2.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """Where to stop sending: after ``after`` bytes of a file whose name ends with ``suffix``."""

    suffix: str
    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def __init__(self, *arguments: Any, owner: RepositoryServer) -> None:  # noqa: ANN401 - what socketserver gives
        self.owner = owner
        super().__init__(*arguments, directory=str(owner.folder))

    def log_message(self, format: str, *arguments: object) -> None:
        self.owner.requests.append(format % arguments)

    def copyfile(self, source: Any, outputfile: Any) -> None:  # noqa: ANN401 - two binary files
        with contextlib.suppress(OSError):  # the guest went away, as some tests want it
            self._send(source, outputfile)

    def _send(self, source: IO[bytes], target: IO[bytes]) -> None:
        hold, sent = self.owner.hold, 0
        held = hold is not None and urlsplit(self.path).path.endswith(hold.suffix)
        while chunk := source.read(CHUNK):
            target.write(chunk)
            sent += len(chunk)
            if held and hold is not None and sent >= hold.after and not hold.reached.is_set():
                target.flush()
                hold.reached.set()
                hold.release.wait(600)


class RepositoryServer:
    """Serves ``folder``, which may be changed at any time; on any free port unless one is named."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.hold: Hold | None = None
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, owner=self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="repository", daemon=True)

    @property
    def port(self) -> int:
        """Its port on this machine."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the repository for the guest."""
        return f"http://{GUEST_ADDRESS}:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.hold is not None:
            self.hold.release.set()
        self._server.shutdown()
        self._server.server_close()
