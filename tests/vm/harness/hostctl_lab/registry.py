"""Debian's container registry on loopback, filled by skopeo, as users would do it; the guest reaches it at 10.0.2.2."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostctl_lab.server import GUEST_ADDRESS

START_SECONDS = 20.0
USER, PASSWORD = "me", "secret"
HTPASSWD = "me:$2b$04$rnpAW/MtE2gkQT7L8xbwbeF3HLlotHSVcqsIh4U037r3z8ALUU9zW\n"
"""The line of htpasswd(1) for them."""
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

    def push(self, source: str, name: str, *options: str) -> None:
        """Copy an image into it.

        Args:
            source: as skopeo names it, ``oci-archive:FILE`` for example.
            name: repository and tag.
            options: further ones of ``skopeo copy``.
        """
        argv = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            "--preserve-digests",
            "--dest-tls-verify=false",
            *options,
            source,
        ]
        subprocess.run([*argv, f"docker://{self.address}/{name}"], check=True)


@contextmanager
def run_registry(
    folder: Path, *, certificate: tuple[Path, Path] | None = None, private: bool = False
) -> Iterator[Registry]:
    """Run a registry that keeps its images in ``folder``.

    Args:
        folder: gets its files.
        certificate: files of a certificate and its key; none is plain HTTP.
        private: only :data:`USER` may use it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config, log_file = folder / "registry.yml", folder / "registry.log"
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}"}
    if certificate is not None:
        http["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    document: dict[str, object] = {"version": "0.1", "storage": storage, "http": http}
    if private:
        (folder / "htpasswd").write_text(HTPASSWD)
        document["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    config.write_text(json.dumps(document))
    with log_file.open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, log_file.read_text()
                time.sleep(POLL_SECONDS)
        yield Registry(port)
    finally:
        process.terminate()
        process.wait(START_SECONDS)
