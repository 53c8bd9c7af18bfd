"""Registries that lie, stall or lead elsewhere: every pull ends in an error, in time, with nothing in the store."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hostctl_lab.images import layout

from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image import pull as pulling
from hostctl.image import room
from hostctl.image.pull import PullError, pull, resolve
from hostctl.image.registry import Access, Skopeo
from hostctl.image.room import NoRoomError
from hostctl.image.store import ImageStore

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SECONDS = 60.0
ENDLESS = 400 << 20
OVERSHOOT = 100 << 20  # what comes between two looks at the disk, on a busy machine
Serve = Callable[["Registry", "Handler", str, bytes], bool]


class Registry(ThreadingHTTPServer):
    """Serves the files of a layout, unless ``trick`` does it."""

    folder: Path
    trick: Serve
    asked: list[str]
    ended: threading.Event
    disk: Path
    """What the pull may fill."""
    peak: int
    """The most that lay there while an endless blob was sent."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Registry
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, size: int | None = None) -> None:
        """Send a whole answer; ``size`` is said instead of the true one."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Answer."""
        self.server.asked.append(self.path)
        name = self.path.rpartition("/")[2].removeprefix("sha256:")
        if name == "1":
            name = json.loads((self.server.folder / "index.json").read_text())["manifests"][0]["digest"][7:]
        path = self.server.folder / "blobs/sha256" / name
        data = path.read_bytes() if len(name) == 64 and path.is_file() else b""
        if self.server.trick(self.server, self, name, data):
            return
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif data:
            self.answer(
                200, data, {"Content-Type": MANIFEST if "/manifests/" in self.path else "application/octet-stream"}
            )
        else:
            self.answer(404, b"{}")

    do_HEAD = do_GET  # noqa: N815 - as above

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Registry]:
    """Return a registry with one image, ``site:1``, that does not lie yet."""
    registry = Registry(("127.0.0.1", 0), Handler)
    registry.folder, registry.asked, registry.trick = tmp_path / "site", [], lambda *_: False
    registry.ended = threading.Event()
    registry.disk, registry.peak = tmp_path / "store", 0
    layout(registry.folder, b"site")
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    yield registry
    registry.ended.set()
    registry.shutdown()
    registry.server_close()


def take(registry: Registry, tmp_path: Path) -> ImageStore:
    """Pull the image as a host does."""
    store, skopeo = ImageStore(tmp_path / "store"), Skopeo(runtime=tmp_path / "run")
    site, access = ImageReference(f"127.0.0.1:{registry.server_port}/site:1"), Access(insecure=True)
    digest = resolve(site, access=access, skopeo=skopeo)
    pull(site, digest, store, access=access, skopeo=skopeo, make=lambda to: ("dd", "status=none", f"of={to}"))
    return store


def used(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk; some may vanish meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_blocks * 512
    return found


def layer_of(registry: Registry) -> str:
    """Return the name of the layer's blob."""
    return next(
        path.name for path in (registry.folder / "blobs/sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b"
    )


def config_of(registry: Registry) -> str:
    """Return the name of the configuration's blob."""
    return next(path.name for path in (registry.folder / "blobs/sha256").iterdir() if b'"rootfs"' in path.read_bytes())


def other_blob(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give another layer than was asked for."""
    if name != layer_of(registry):
        return False
    handler.answer(200, data[:-1] + bytes([data[-1] ^ 1]))
    return True


def short_blob(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Say more than comes."""
    if name != layer_of(registry):
        return False
    handler.answer(200, data[:20], size=len(data))
    handler.close_connection = True
    return True


def endless_blob(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give far more than the manifest says, 80 MiB a second, and look at the disk."""
    if name != layer_of(registry):
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) + ENDLESS))
    handler.end_headers()
    handler.wfile.write(data)
    with suppress(OSError):
        for _ in range(0, ENDLESS, 4 << 20):
            handler.wfile.write(bytes(4 << 20))
            registry.ended.wait(0.05)
            registry.peak = max(registry.peak, used(registry.disk))
    handler.close_connection = True
    return True


def other_config(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give a configuration that names another layer."""
    if name != config_of(registry):
        return False
    handler.answer(200, data.replace(b"amd64", b"arm64"))
    return True


def huge_manifest(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give a manifest of 100 MiB."""
    if "/manifests/" not in handler.path:
        return False
    handler.answer(200, b" " * (100 << 20), {"Content-Type": MANIFEST})
    return True


def two_things(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give a manifest that is an index as well."""
    if "/manifests/" not in handler.path:
        return False
    handler.answer(200, json.dumps({**json.loads(data), "manifests": []}).encode(), {"Content-Type": MANIFEST})
    return True


def never_enough(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Ask for another token whatever comes."""
    if handler.path.startswith("/token"):
        handler.answer(200, b'{"token": "x"}')
    else:
        realm = f"http://127.0.0.1:{registry.server_port}/token"
        handler.answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})
    return True


def in_circles(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Lead a request for a layer back to itself."""
    if name != layer_of(registry):
        return False
    handler.answer(307, b"", {"Location": handler.path})
    return True


def elsewhere(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Lead to a page that is no layer."""
    if handler.path == "/secret":
        handler.answer(200, b"secret")
        return True
    if name != layer_of(registry):
        return False
    handler.answer(307, b"", {"Location": f"http://127.0.0.1:{registry.server_port}/secret"})
    return True


def refuses(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Break off every answer."""
    handler.close_connection = True
    return True


def test_the_registry_works_when_it_does_not_lie(lying: Registry, tmp_path: Path) -> None:
    assert len(take(lying, tmp_path).list()) == 1


@pytest.mark.parametrize(
    "trick",
    [
        *(other_blob, short_blob, endless_blob, other_config, huge_manifest, two_things),
        *(never_enough, in_circles, elsewhere, refuses),
    ],
    ids=lambda trick: str(trick.__name__),
)
def test_a_lie_ends_in_an_error(lying: Registry, tmp_path: Path, trick: Serve) -> None:
    lying.trick = trick
    started = time.monotonic()
    with pytest.raises(HostctlError) as caught:
        take(lying, tmp_path)
    assert time.monotonic() - started < SECONDS
    assert caught.value.brief
    assert ImageStore(tmp_path / "store").list() == ()
    assert not list((tmp_path / "store").glob("layers/*"))
    assert not list((tmp_path / "run").iterdir())
    assert lying.peak < OVERSHOOT
    assert not list((tmp_path / "store").rglob("oci-put-blob*"))
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_more_than_the_manifest_says_is_told(lying: Registry, tmp_path: Path) -> None:
    lying.trick = endless_blob
    with pytest.raises(PullError, match="cannot be pulled") as caught:
        take(lying, tmp_path)
    assert "by its manifest" in caught.value.details
    assert lying.peak > 0


def drip(registry: Registry, handler: Handler, name: str, data: bytes) -> bool:
    """Give a layer byte by byte, after as many as skopeo wants before it makes a file."""
    if name != layer_of(registry):
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[:20])
    for byte in data[20:]:
        handler.wfile.write(bytes([byte]))
        if registry.ended.wait(0.3):
            break
    return True


def test_a_layer_that_drips_is_given_up(lying: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "STALL_SECONDS", 2.0)
    lying.trick = drip
    with pytest.raises(HostctlError, match="cannot be pulled") as caught:
        take(lying, tmp_path)
    assert "bytes came within 2 s" in caught.value.details
    assert ImageStore(tmp_path / "store").list() == ()
    assert not list((tmp_path / "store").rglob("oci-put-blob*"))


def test_a_pull_ends_before_the_disk_is_full(lying: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MARGIN", 1 << 62)
    lying.trick = drip
    with pytest.raises(NoRoomError, match="the image does not fit on the disk"):
        take(lying, tmp_path)
    assert not list((tmp_path / "store").rglob("oci-put-blob*"))


def test_a_registry_cannot_give_a_layer_twice_the_name(lying: Registry, tmp_path: Path) -> None:
    """A manifest whose layer is its own configuration: no tar, so nothing comes of it."""
    folder = lying.folder / "blobs/sha256"
    index = json.loads((lying.folder / "index.json").read_text())
    manifest = json.loads((folder / index["manifests"][0]["digest"][7:]).read_text())
    manifest["layers"][0] |= {"digest": manifest["config"]["digest"], "size": manifest["config"]["size"]}
    data = json.dumps(manifest).encode()
    (folder / sha256(data).hexdigest()).write_bytes(data)
    index["manifests"][0] |= {"digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}
    (lying.folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(HostctlError):
        take(lying, tmp_path)
    assert ImageStore(tmp_path / "store").list() == ()
    assert not list((tmp_path / "store/layers").iterdir())
