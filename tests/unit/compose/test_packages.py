"""Packages: apt's words are understood, and only the locked bytes enter the cache."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hostctl.compose.packages import (
    Package,
    PackageFetchError,
    PackageResolutionError,
    deb_path,
    fetch_packages,
    known_packages,
    parse_simulation,
    select,
    sources,
    unresolved,
)

DATA = b"bytes of a package"
INDEX = f"""Package: libc6
Version: 2.41-12
Architecture: amd64
Description: a
 b: c
Filename: pool/libc6.deb
Size: 18
SHA256: {hashlib.sha256(DATA).hexdigest()}

"""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "a.deb").write_bytes(DATA)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def package(url: str, data: bytes = DATA, size: int | None = None) -> Package:
    digest = hashlib.sha256(data).hexdigest()
    return Package(name="a", version="1", architecture="all", sha256=digest, size=size or len(data), url=url)


def test_simulation() -> None:
    text = "Inst libc6 (2.41-12 Debian:13.0/stable [amd64]) []\nConf libc6 (2.41-12 x)\nInst x:amd64 [1] (2 y [all])\n"
    assert parse_simulation(text) == {"libc6": "2.41-12", "x": "2"}


def test_select() -> None:
    known = known_packages([("http://mirror.test/debian/", INDEX)])
    (one,) = select({"libc6": "2.41-12"}, known)
    assert one.url == "http://mirror.test/debian/pool/libc6.deb"
    assert one.size == 18
    with pytest.raises(PackageResolutionError):
        select({"libc6": "3"}, known)


def test_fetch_then_cached(mirror: str, tmp_path: Path) -> None:
    one = package(f"{mirror}/a.deb")
    path = fetch_packages([one, one], tmp_path)[one]
    assert path == deb_path(tmp_path, one)
    assert path.read_bytes() == DATA
    (tmp_path / "mirror/a.deb").unlink()
    assert fetch_packages([one], tmp_path)[one] == path


def test_a_torn_cache_entry_is_fetched_again(mirror: str, tmp_path: Path) -> None:
    one = package(f"{mirror}/a.deb")
    fetch_packages([one], tmp_path)[one].write_bytes(b"torn")
    assert fetch_packages([one], tmp_path)[one].read_bytes() == DATA


@pytest.mark.parametrize(("data", "size"), [(b"other bytes of 18 b", 18), (DATA, 5), (DATA, 50)])
def test_other_bytes_are_refused_by_name(mirror: str, tmp_path: Path, data: bytes, size: int) -> None:
    one = package(f"{mirror}/a.deb", data, size)
    with pytest.raises(PackageFetchError) as caught:
        fetch_packages([one], tmp_path / "cache")
    assert caught.value.details.startswith("a 1: ")
    assert not list((tmp_path / "cache/debs").iterdir())


def test_a_package_that_is_not_there_is_named() -> None:
    said = "Reading package lists...\nE: Unable to locate package nosuch\nE: Unable to locate package other\n"
    error = unresolved(said, "trixie")
    assert error.brief == "Debian trixie has no package nosuch, other"
    assert "release.yaml" in error.hint
    assert "broken" in unresolved("E: you have held broken packages.", "trixie").details


def test_security_updates_can_be_left_out() -> None:
    listed = [line.split()[2:] for line in sources("http://mirror.test/debian/", "trixie").splitlines()]
    assert listed == [
        ["http://mirror.test/debian", "trixie", "main"],
        ["http://mirror.test/debian", "trixie-updates", "main"],
        ["http://mirror.test/debian-security", "trixie-security", "main"],
    ]
    assert len(sources("http://mirror.test/debian", "trixie", security=False).splitlines()) == 1
