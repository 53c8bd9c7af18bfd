"""Small builds, keys and a repository, and python-tuf's own client as the judge of what is published."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from hostctl.repository.keyring import Keyring, NewKeys, make_keys
from hostctl.repository.root_hash import root_hash

NOW = datetime.now(UTC)
CHANNELS = ("stable", "beta")
SALT = "cd" * 32


class FolderFetcher(FetcherInterface):
    """Serves a folder as a web server would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.removeprefix("http://repository/")
        if not path.is_file():
            raise DownloadHTTPError(url, 404)
        yield path.read_bytes()


@dataclass(frozen=True)
class Workshop:
    """Where a publisher works."""

    folder: Path
    repository: Path
    new_keys: NewKeys
    keys: Path
    """The keys as files."""

    @property
    def keyring(self) -> Keyring:
        return Keyring.load(self.keys)

    def build(self, version: str, *, name: str = "edge", channel: str = "stable", change: int = 0) -> Path:
        """Make a build of 64 KiB of root whose content ``change`` alters."""
        folder = self.folder / f"build-{name}-{version}-{change}"
        folder.mkdir()
        seed = hashlib.sha256(f"{name} {version} {change}".encode())
        common = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(255)) * 8
        contents = {
            "root": (seed.digest() * 32 + common)[: 1 << 16].ljust(1 << 16, b"\0"),
            "uki": common + seed.digest() * 100,
        }
        (folder / "root.file").write_bytes(contents["root"])
        digest = root_hash(folder / "root.file", bytes.fromhex(SALT))
        contents["verity-sig"] = json.dumps({"rootHash": digest}).encode()
        artifacts = []
        for kind, data in contents.items():
            (folder / f"{kind}.file").write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            artifacts.append({"name": kind, "path": f"{kind}.file", "bytes": len(data), "sha256": sha256})
        manifest = {
            "format": 1,
            "name": name,
            "version": version,
            "architecture": "x86-64",
            "channel": channel,
            "root_hash": digest,
            "verity": {"salt": SALT, "uuid": "8f4e4a0c-4d61-5d0f-9c64-2a5f6b9f7f11"},
            "tries": 3,
            "artifacts": artifacts,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def files(self) -> dict[str, bytes]:
        """Return the content of the repository."""
        found = sorted(path for path in self.repository.rglob("*") if path.is_file())
        return {path.relative_to(self.repository).as_posix(): path.read_bytes() for path in found}


Clients = Callable[..., Updater]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    from hostctl.repository.keyring import write_private_key  # noqa: PLC0415

    made = make_keys(NOW, channels=CHANNELS)
    keys = tmp_path / "keys"
    (keys / "tuf").mkdir(parents=True)
    (keys / "tuf/root.json").write_bytes(made.root)
    for stem, key in made.private.items():
        write_private_key(keys / f"tuf/{stem}.pem", key)
    return Workshop(folder=tmp_path, repository=tmp_path / "repository", new_keys=made, keys=keys)


@pytest.fixture
def clients(workshop: Workshop, tmp_path: Path) -> Clients:
    """Return what makes a python-tuf client with fresh or kept metadata, refreshed."""

    def make(cache: str = "cache", root: bytes | None = None) -> Updater:
        folder, targets = tmp_path / cache, tmp_path / "fetched"
        for path in (folder, targets):
            path.mkdir(exist_ok=True)
        start: dict[str, Any] = {}
        if "bootstrap" in inspect.signature(Updater.__init__).parameters:
            start["bootstrap"] = root or workshop.new_keys.root
        else:  # python-tuf 5 starts from the root in its folder
            (folder / "root.json").write_bytes(root or workshop.new_keys.root)
        updater = Updater(
            metadata_dir=str(folder),
            metadata_base_url="http://repository/metadata/",
            target_dir=str(targets),
            target_base_url="http://repository/targets/",
            fetcher=FolderFetcher(workshop.repository),
            **start,
        )
        updater.refresh()
        return updater

    return make
