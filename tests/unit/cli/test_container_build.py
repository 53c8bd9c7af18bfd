"""What `hostctl build` sends to the agent."""

from __future__ import annotations

import argparse
import os
import socket
import tarfile
import threading
from pathlib import Path

import pytest

from hostctl.cli import container_build
from hostctl.errors import UsageError
from hostctl.image.containerfile import BYTES, ContainerfileError

DIGEST = f"r.example/base@sha256:{'1' * 64}"


def parsed(*words: str) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser()
    container_build.configure(parser)
    return parser.parse_args(words)


def test_the_file_is_the_named_one_or_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Containerfile and no Dockerfile"):
        container_build.read(parsed(str(tmp_path)))
    (tmp_path / "Dockerfile").write_text("FROM b")
    assert container_build.read(parsed(str(tmp_path))) == "FROM b"
    (tmp_path / "Containerfile").write_text("FROM a")
    assert container_build.read(parsed(str(tmp_path))) == "FROM a"
    assert container_build.read(parsed("-f", str(tmp_path / "Dockerfile"), str(tmp_path))) == "FROM b"
    for data in (b"\xff\xfe", b"#" * (BYTES + 1)):
        (tmp_path / "Containerfile").write_bytes(data)
        with pytest.raises(UsageError):
            container_build.read(parsed(str(tmp_path)))
    with pytest.raises(UsageError, match="no such folder"):
        container_build.read(parsed(str(tmp_path / "nope")))


def test_options_are_those_of_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x")
    words = ("-t", "site:2", "--target", "two", "--build-arg", "A=1=2", "--build-arg", "FROM_HERE", "-q", ".")
    wanted = container_build.request(parsed(*words, "--build-arg", "NOT_SET"), "FROM a")
    assert wanted == {
        "tags": ["docker.io/library/site:2"],
        "needs": ["a"],
        "arguments": ["A=1=2", "FROM_HERE=x"],
        "target": "two",
        "quiet": True,
    }
    by_digest = container_build.request(parsed("--build-arg", f"A={DIGEST}", "."), "ARG A\nFROM $A")
    assert by_digest["arguments"] == [f"A=localhost/hostctl-base:{'1' * 64}"]
    with pytest.raises(UsageError):
        container_build.request(parsed("-t", "NOT AN IMAGE", "."), "FROM a")
    with pytest.raises(ContainerfileError):
        container_build.request(parsed("."), "")


def test_the_context_goes_as_it_is_and_nothing_beside_it(tmp_path: Path) -> None:
    context, outside = tmp_path / "context", tmp_path / "outside"
    (context / "sub").mkdir(parents=True)
    outside.write_text("secret")
    (context / "sub/file").write_text("x")
    (context / "link").symlink_to(outside)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(context / "socket"))
    reader, writer = os.pipe()
    skipped: list[str] = []
    packing = threading.Thread(target=lambda: skipped.extend(container_build.pack("FROM a", context, writer)))
    packing.start()
    with os.fdopen(reader, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        found = {info.name: info.linkname for info in tar}
    packing.join()
    assert found == {
        "Containerfile": "",
        "context": "",
        "context/link": str(outside),
        "context/sub": "",
        "context/sub/file": "",
    }
    assert skipped == ["context/socket"]


def test_who_reads_the_context_may_go(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    reader, writer = os.pipe()
    os.close(reader)
    assert container_build.pack("FROM a", tmp_path, writer) == []
