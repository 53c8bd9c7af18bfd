"""Debian's container registry on loopback, filled by skopeo, as users would do it; the guest reaches it at 10.0.2.2."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostctl_lab.server import GUEST_ADDRESS

START_SECONDS = 20.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    port: int

    @property
    def address(self) -> str:
        """Return its address on this machine."""
        return f"127.0.0.1:{self.port}"

    @property
    def guest_address(self) -> str:
        """Return its address for the guest."""
        return f"{GUEST_ADDRESS}:{self.port}"

    def push(self, source: str, name: str) -> None:
        """Copy an image into it.

        Args:
            source: as skopeo names it, ``oci-archive:FILE`` for example.
            name: repository and tag.
        """
        argv = ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", source]
        subprocess.run([*argv, f"docker://{self.address}/{name}"], check=True)


@contextmanager
def run_registry(folder: Path) -> Iterator[Registry]:
    """Run a registry that keeps its images in ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config, log_file = folder / "registry.yml", folder / "registry.log"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    with log_file.open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None and time.monotonic() < end, log_file.read_text()
                time.sleep(POLL_SECONDS)
        yield Registry(port)
    finally:
        process.terminate()
        process.wait(START_SECONDS)
