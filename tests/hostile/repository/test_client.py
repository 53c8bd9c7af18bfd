"""A repository, or somebody on the way to it, that means harm; everything a host may be served over HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hostctl.errors import HostctlError
from hostctl.repository.client import (
    Fetcher,
    PayloadError,
    RepositoryClient,
    RepositoryUnavailableError,
    RepositoryUntrustedError,
    Source,
)
from hostctl.repository.keyring import Keyring, make_keys
from hostctl.repository.publish import publish

Answer = Callable[[BaseHTTPRequestHandler], bool]


@dataclass
class Site:
    """A repository, and a server for it that a test may teach to lie: ``answer`` returns whether it answered."""

    folder: Path
    repository: Path
    keys: Keyring
    source: Source
    answer: Answer | None = None

    def publish(self, version: str, keys: Keyring | None = None, now: datetime | None = None) -> None:
        build = self.folder / f"build-{version}"
        build.mkdir(exist_ok=True)
        artifacts = []
        for name in ("root", "verity-sig", "uki"):
            data = (f"{name} {version} " * 1000).encode()[:4096]
            (build / name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            artifacts.append({"name": name, "path": name, "bytes": len(data), "sha256": digest})
        manifest = {
            "name": "host",
            "version": version,
            "architecture": "x86-64",
            "channel": "stable",
            "root_hash": "ab" * 32,
            "verity": {"salt": "cd" * 32, "uuid": "8f4e4a0c-4d61-5d0f-9c64-2a5f6b9f7f11"},
            "artifacts": artifacts,
        }
        (build / "manifest.json").write_text(json.dumps(manifest))
        publish(build, self.repository, keys or self.keys, now=now)

    def client(self) -> RepositoryClient:
        return RepositoryClient(self.source, Fetcher(grace=0.2, rate=1_000_000.0))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    keys = make_keys(datetime.now(UTC)).keyring
    repository = tmp_path / "repository"
    source = Source(url="", name="host", channel="stable", root=keys.root, cache=tmp_path / "cache")
    made = Site(folder=tmp_path, repository=repository, keys=keys, source=source)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if made.answer is not None and made.answer(self):
                return
            path = repository / self.path.lstrip("/")
            data = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with serving(Handler) as url:
        made.source = replace(source, url=url)
        yield made


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def endless(part: str) -> Answer:
    """Answer requests for paths with ``part`` in them by data without end."""

    def answer(request: BaseHTTPRequestHandler) -> bool:
        if part not in request.path:
            return False
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b" " * 65536)
        except OSError:
            return True

    return answer


def trickling(part: str) -> Answer:
    """Answer requests for paths with ``part`` in them a byte at a time."""

    def answer(request: BaseHTTPRequestHandler) -> bool:
        if part not in request.path:
            return False
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        gone = threading.Event()
        try:
            while not gone.wait(0.01):
                request.wfile.write(b"1\r\n \r\n")
        except OSError:
            return True
        return True

    return answer


def test_honest_repository_is_read(site: Site) -> None:
    site.publish("9")
    site.publish("10")
    client = site.client()
    assert [offer.version for offer in client.offers()] == ["10", "9"]
    release = client.release("10")
    assert client.small(release.signature) == (site.folder / "build-10/verity-sig").read_bytes()
    segments = (site.repository / release.segments.path).read_bytes()
    assert b"".join(client.ranges(release.segments, 10, 50)) == segments[10:50]


def test_foreign_keys(site: Site) -> None:
    site.publish("2", make_keys(datetime.now(UTC)).keyring)
    with pytest.raises(RepositoryUntrustedError):
        site.client()


def test_frozen(site: Site) -> None:
    site.publish("2", now=datetime.now(UTC) - timedelta(days=15))
    with pytest.raises(RepositoryUntrustedError, match="trusted"):
        site.client()


def test_back_in_time(site: Site) -> None:
    site.publish("2")
    old = {path: path.read_bytes() for path in (site.repository / "metadata").iterdir()}
    site.publish("3")
    assert [offer.version for offer in site.client().offers()] == ["3", "2"]
    for path, data in old.items():
        path.write_bytes(data)
    # python-tuf keeps what it knows: the old list is refused, or passed over for the newer one in the cache.
    try:
        versions = [offer.version for offer in site.client().offers()]
    except RepositoryUntrustedError:
        return
    assert versions == ["3", "2"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b"[" * 100_000, b"<html>login</html>"], ids=range(5))
@pytest.mark.parametrize("role", ["timestamp", "1.snapshot", "1.targets", "1.stable"])
def test_nonsense_for_metadata(site: Site, role: str, content: bytes) -> None:
    site.publish("2")
    (site.repository / f"metadata/{role}.json").write_bytes(content)
    with pytest.raises(RepositoryUntrustedError):
        site.client().offers()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b"[" * 100_000])
def test_poisoned_cache_is_not_trusted(site: Site, content: bytes) -> None:
    site.publish("2")
    site.client()
    for path in site.source.cache.rglob("*.json"):
        path.write_bytes(content)
    assert [offer.version for offer in site.client().offers()] == ["2"]


def test_planted_root_in_cache_is_not_trusted(site: Site) -> None:
    evil = make_keys(datetime.now(UTC)).keyring
    site.publish("2", evil)
    RepositoryClient(replace(site.source, root=evil.root))
    with pytest.raises(RepositoryUntrustedError):
        site.client()


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets.json", "releases.json"])
def test_endless_metadata(site: Site, part: str) -> None:
    site.publish("2")
    site.answer = endless(part)
    with pytest.raises(HostctlError):
        site.client().offers()


def test_endless_payload(site: Site) -> None:
    site.publish("2")
    client = site.client()
    release = client.release("2")
    site.answer = endless("payloads/")
    with pytest.raises(PayloadError, match="longer"):
        client.small(release.signature)
    assert len(b"".join(client.ranges(release.segments, 5, 15))) == 10


def test_trickle(site: Site) -> None:
    site.publish("2")
    site.answer = trickling("timestamp")
    started = time.monotonic()
    with pytest.raises(RepositoryUnavailableError):
        site.client()
    assert time.monotonic() - started < 10


def test_nobody_there(site: Site) -> None:
    site.source = replace(site.source, url="http://127.0.0.1:1/")
    with pytest.raises(RepositoryUnavailableError) as caught:
        site.client()
    assert caught.value.exit_code == 69
