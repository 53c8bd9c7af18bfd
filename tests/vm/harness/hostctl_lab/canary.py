"""A workload that writes numbers, flushes them, and tells this machine each one that it may rely on.

After a power cut the volume must hold the last number that was acknowledged before the cut, or a later one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from hostctl_lab.host import Host
from hostctl_lab.server import GUEST_ADDRESS

NAME = "canary"
BOX = "/usr/bin/busybox"
# Two files in turn: one of them is whole, whatever happens to the other while it is rewritten.
_SCRIPT = (
    "n=$({box} cat /data/0 /data/1 2>/dev/null | {box} sort -n | {box} tail -n 1); "
    "while n=$((n + 1)); do "
    "echo $n | {box} dd of=/data/$((n % 2)) conv=fsync 2>/dev/null && {box} wget -q -T 5 -O - {url}$n; "
    "{box} sleep 0.2; done"
)
_DATA = "/var/lib/hostctl/volumes/canary"


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, *arguments: Any, owner: Canary) -> None:  # noqa: ANN401 - what socketserver gives
        self.owner = owner
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.owner.acknowledge(int(self.path.strip("/")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""


class Canary:
    """Hears of the numbers that are safe. `watcher`, when set, is called with each as it comes."""

    def __init__(self, port: int = 0) -> None:
        self.last = 0
        self.watcher: Callable[[int], object] | None = None
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, owner=self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="canary", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Its port on this machine."""
        return int(self._server.server_address[1])

    def declaration(self) -> str:
        """Return what to add to a host.yaml that declares no workloads."""
        url = f"http://{GUEST_ADDRESS}:{self.port}/"
        command = f'[{BOX}, sh, -c, "{_SCRIPT.format(box=BOX, url=url)}"]'
        workload = f"{{image: localhost/box:1, command: {command}, volumes: [canary:/data], required: true}}"
        return f"workloads:\n  {NAME}: {workload}\nvolumes: {{canary: {{}}}}\n"

    def acknowledge(self, number: int) -> None:
        """Note that the guest has flushed a number."""
        with self._changed:
            self.last = number
            if self.watcher is not None:
                self.watcher(number)
            self._changed.notify_all()

    def wait_next(self, seconds: float) -> bool:
        """Tell whether the workload acknowledged another number within ``seconds``."""
        with self._changed:
            return self._changed.wait(seconds)


def number_on_disk(host: Host) -> int:
    """Return the highest number that the volume holds."""
    said = host.shell(f"find {_DATA} -type f -exec cat {{}} + 2>/dev/null || true")
    return max((int(word) for word in said.split() if word.isdigit()), default=0)
