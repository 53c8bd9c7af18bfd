"""A host that runs release 1: a disk image, a folder as its ESP, a repository on loopback, and the real programs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hostctl.boot.slots import Slot, find_slots, halves, read_table
from hostctl.repository.client import Source
from hostctl.repository.keyring import Keyring, make_keys
from hostctl.repository.publish import publish
from hostctl.repository.store import Named, Store
from hostctl.run import run
from hostctl.update.host import UpdateHost
from hostctl.update.steps import Report, silent
from hostctl.update.updater import Outcome, Until, update

MIB = 1 << 20
SALT = "ab" * 32
UUID = "8f4e4a0c-4d61-5d0f-9c64-2a5f6b9f7f11"
SCRIPT = """label: gpt
start=2048, size=2048, type=U, name="hostctl-esp"
size={root}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid={0}, name="host_1"
size=4096, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, uuid={1}, name="host_1-verity"
size=2048, type=41092B05-9FC8-4523-994F-2DEF0408B176, name="host_1-sig"
size={root}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="_empty"
size=4096, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, name="_empty"
size=2048, type=41092B05-9FC8-4523-994F-2DEF0408B176, name="_empty"
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@dataclass(frozen=True)
class World:
    """A repository that is served, the keys that sign it, and a host that runs release 1."""

    folder: Path
    repository: Path
    keys: Keyring
    host: UpdateHost
    source: Source

    def build(self, version: str, *, size: int = MIB, edit: Callable[[Path], None] | None = None) -> Path:
        """Make a build; ``edit`` alters its folder before the manifest is written."""
        build = self.folder / f"build-{version}"
        build.mkdir(exist_ok=True)
        content = (hashlib.sha256(version.encode()).digest() * (size // 32))[:size]
        (build / "root").write_bytes(content)
        (build / "sig").write_text(json.dumps({"rootHash": version}))
        (build / "uki").write_bytes(self.kernel(version))
        root_hash = verity(build / "root", build / "tree")
        if edit is not None:
            edit(build)
        names = {"root": "root", "verity-sig": "sig", "uki": "uki"}
        artifacts = [
            {
                "name": name,
                "path": path,
                "bytes": (build / path).stat().st_size,
                "sha256": hashlib.sha256((build / path).read_bytes()).hexdigest(),
            }
            for name, path in names.items()
        ]
        manifest = {
            "format": 1,
            "name": "host",
            "version": version,
            "architecture": "x86-64",
            "channel": "stable",
            "root_hash": root_hash,
            "verity": {"salt": SALT, "uuid": UUID},
            "artifacts": artifacts,
        }
        (build / "manifest.json").write_text(json.dumps(manifest))
        return build

    def publish(self, version: str, *, size: int = MIB, edit: Callable[[Path], None] | None = None) -> None:
        publish(self.build(version, size=size, edit=edit), self.repository, self.keys)

    def stored(self, name: str) -> Path:
        """Return a payload of release 2 in the repository."""
        release = Store.open(self.repository).release(Named(channel="stable", name="host", version="2"))
        assert release is not None
        payloads = {"index": release.index, "segments": release.segments, "signature": release.signature}
        return self.repository / payloads[name].path

    def foreign_keys(self) -> Keyring:
        """Return keys that this host does not trust."""
        return make_keys(datetime.now(UTC)).keyring

    @property
    def entries(self) -> list[str]:
        return sorted(path.name for path in self.host.entries.iterdir() if not path.name.startswith("."))

    @property
    def slot(self) -> Slot:
        """Return the slot that does not run."""
        return find_slots(read_table(self.host.disk), self.host.root_hash).other

    @property
    def other(self) -> str | None:
        """Return the release in it."""
        return self.slot.release

    def update(self, until: Until = "stage", report: Report = silent) -> Outcome:
        return update(self.host, self.source, until, report)

    def update_to(self, version: str) -> None:
        self.publish(version)
        assert self.update().staged == version

    def kernel(self, version: str) -> bytes:
        """Return what the kernel image of a release must hold."""
        return b"kernel 1" if version == "1" else f"kernel {version}".encode() * 1000

    def bless(self, version: str) -> None:
        (self.host.entries / f"host_{version}+3.efi").rename(self.host.entries / f"host_{version}.efi")

    def rebooted(self) -> World:
        """Return the world in which the host runs what was in the other slot."""
        slot = self.slot
        assert slot.release is not None
        host = replace(self.host, version=slot.release.removeprefix("host_"), root_hash=slot.root_hash)
        return replace(self, host=host)


def verity(root: Path, tree: Path) -> str:
    words: list[str | Path] = ["veritysetup", "format", f"--salt={SALT}", f"--uuid={UUID}", root, tree]
    found = re.search(r"Root hash:\s+([0-9a-f]{64})", run(words).text)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one: every update flushes, and other tests wait for the same disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="hostctl-") as name:
        yield Path(name)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    disk, root_sectors = folder / "disk.raw", 4096
    (folder / "running").write_bytes(b"one" * 4096)
    root_hash = verity(folder / "running", folder / "running-tree")
    with disk.open("wb") as file:
        file.truncate(24 * MIB)
    run(["sfdisk", "--quiet", disk], stdin=SCRIPT.format(*halves(root_hash), root=root_sectors).encode())
    for part in read_table(disk).partitions:
        part.node.write_bytes(b"\xff" * part.size * 512)
    slots = find_slots(read_table(disk), root_hash)
    slots.running.root.node.write_bytes((folder / "running").read_bytes())
    slots.running.verity.node.write_bytes((folder / "running-tree").read_bytes())
    entries, repository, state = folder / "esp", folder / "repository", folder / "state"
    entries.mkdir()
    repository.mkdir()
    (entries / "host_1.efi").write_bytes(b"kernel 1")
    runtime = folder / "run"
    host = UpdateHost(
        name="host", version="1", root_hash=root_hash, disk=disk, entries=entries, state=state, runtime=runtime
    )
    keys = make_keys(datetime.now(UTC)).keyring
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(repository)))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    source = Source(url=url, name="host", channel="stable", root=keys.root, cache=state / "tuf")
    yield World(folder=folder, repository=repository, keys=keys, host=host, source=source)
    server.shutdown()
    thread.join()
    server.server_close()
