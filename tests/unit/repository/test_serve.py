"""The real command line serves the real files over real HTTP: ranges, conditional requests, nothing outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from hostctl.cli.main import main
from hostctl.repository.client import RepositoryClient, Source
from hostctl.repository.publish import publish

from .conftest import Workshop


@contextmanager
def serving(repository: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    argv = [sys.executable, "-m", "hostctl", "repo", "serve", "--repository", str(repository), "--json", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["url"], server
        finally:
            server.terminate()


def test_a_host_reads_what_is_served(workshop: Workshop, tmp_path: Path) -> None:
    build = workshop.build("1")
    publish(build, workshop.repository, workshop.keyring)
    source = Source(url="", name="edge", channel="stable", root=workshop.new_keys.root, cache=tmp_path / "cache")
    with serving(workshop.repository, "--listen", "127.0.0.1:0") as (url, server):
        client = RepositoryClient(replace(source, url=url))
        assert [offer.version for offer in client.offers()] == ["1"]
        release = client.release("1")
        assert client.small(release.signature) == (build / "verity-sig.file").read_bytes()
        whole = (workshop.repository / release.segments.path).read_bytes()
        assert b"".join(client.ranges(release.segments, 7, 99)) == whole[7:99]
        # What is published meanwhile is there at once.
        publish(workshop.build("2"), workshop.repository, workshop.keyring)
        assert len(RepositoryClient(replace(source, url=url)).offers()) == 2
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_ranges_conditions_and_refusals(workshop: Workshop) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    (workshop.repository / "secret").write_text("not served")
    (workshop.folder / "outside").write_text("not served")
    path = next(workshop.repository.glob("payloads/*/*"))
    name, whole = path.relative_to(workshop.repository).as_posix(), path.read_bytes()
    with serving(workshop.repository, "--listen", "127.0.0.1:0", "--log") as (url, server):
        pool = urllib3.PoolManager(retries=False)

        def get(target: str, **headers: str) -> urllib3.BaseHTTPResponse:
            return pool.request("GET", f"{url}{target}", headers=headers)

        part = get(name, Range="bytes=10-19")
        assert (part.status, part.data, part.headers["Content-Range"]) == (
            206,
            whole[10:20],
            f"bytes 10-19/{len(whole)}",
        )
        assert get(name, Range=f"bytes={len(whole)}-").status == 416
        full = get(name)
        assert (full.status, full.data) == (200, whole)
        assert get(name, **{"If-None-Match": full.headers["ETag"]}).status == 304
        for target in (
            "",
            "secret",
            "payloads/../secret",
            "payloads/%2e%2e/secret",
            "payloads/..%2f..%2foutside",
            "payloads",
        ):
            assert get(target).status in (403, 404), target
        assert pool.request("POST", f"{url}{name}").status == 405
        server.terminate()
        assert server.stderr is not None
        assert "206" in server.stderr.read()


def test_refusals(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repo", "serve", "--repository", str(workshop.folder)]) == 1
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    for wrong in ("8000", "127.0.0.1:x", "127.0.0.1:70000", ":1"):
        assert main(["repo", "serve", "--repository", str(workshop.repository), "--listen", wrong]) == 2
    capsys.readouterr()
    with serving(workshop.repository, "--listen", "127.0.0.1:0") as (url, _):
        taken = url.removeprefix("http://").rstrip("/")
        assert main(["repo", "serve", "--repository", str(workshop.repository), "--listen", taken]) == 1
        assert "cannot listen" in capsys.readouterr().err
    assert os.environ.get("HOSTCTL_REPOSITORY") is None
    assert main(["repo", "serve"]) == 2
