"""A host that runs release 1: a disk image, a folder as its ESP, a repository on loopback, and the real programs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from hostctl.boot.entries import choose, parse_entries
from hostctl.boot.slots import Slot, find_slots, halves, read_table
from hostctl.payload.frame import raw_dictionary
from hostctl.payload.index import Index, Method, Output, Range, Reference, Segment, encode_index
from hostctl.repository.build import read_build
from hostctl.repository.client import Source
from hostctl.repository.keyring import Keyring, make_keys
from hostctl.repository.offers import MadeDelta, add
from hostctl.repository.publish import publish, scratch
from hostctl.repository.release import Delta, Payload
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


class Server(ThreadingHTTPServer):
    """Serves a folder, parts of files as well, and counts what it sent of each."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.cut_after: dict[str, int] = {}
        """Bytes of a path after which a connection is closed."""
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, found = path.read_bytes(), re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        size = len(data)
        if found:
            start, end = int(found[1]), min(int(found[2]) + 1, size)
            data = data[start:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        allowed = max(0, self.server.cut_after.get(self.path, 1 << 40) - self.server.sent[self.path])
        self.wfile.write(data[:allowed])
        self.server.sent[self.path] += len(data[:allowed])


@dataclass(frozen=True)
class World:
    """A repository that is served, the keys that sign it, and a host that runs release 1."""

    folder: Path
    repository: Path
    keys: Keyring
    host: UpdateHost
    source: Source
    server: Server

    def build(
        self,
        version: str,
        *,
        size: int = MIB,
        content: bytes | None = None,
        edit: Callable[[Path], None] | None = None,
    ) -> Path:
        """Make a build; ``edit`` alters its folder after its root hash is computed, before its manifest is written."""
        build = self.folder / f"build-{version}"
        build.mkdir(exist_ok=True)
        (build / "root").write_bytes(content or (hashlib.sha256(version.encode()).digest() * (size // 32))[:size])
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

    def publish(
        self,
        version: str,
        *,
        size: int = MIB,
        content: bytes | None = None,
        edit: Callable[[Path], None] | None = None,
    ) -> None:
        publish(self.build(version, size=size, content=content, edit=edit), self.repository, self.keys)

    def publish_delta(self, version: str, *, alter: Callable[[Delta], Delta] = lambda delta: delta) -> MadeDelta:
        """Publish a release of half a segment's new bytes, with a delta to it from the running one."""
        new = random.Random(7).randbytes(MIB // 2)  # noqa: S311 - data
        built = self.build(version, content=self.running_root.read_bytes()[: MIB // 2] + new)
        made = self.folder / "delta"
        made.mkdir(exist_ok=True)
        old_uki = next(self.host.entries.glob(f"host_{self.host.version}.efi"))
        index, segments = delta_files(self.running_root.read_bytes()[:MIB], old_uki.read_bytes(), built)
        (made / "index").write_bytes(index)
        (made / "segments").write_bytes(segments)
        delta = Delta(
            from_version=self.host.version,
            from_root_hash=self.host.root_hash,
            from_uki_sha256=sha256(old_uki.read_bytes()),
            index=Payload(bytes=len(index), sha256=sha256(index)),
            segments=Payload(bytes=len(segments), sha256=sha256(segments)),
        )
        one = MadeDelta(delta=alter(delta), index=made / "index", segments=made / "segments")
        with scratch() as place:
            add(read_build(built, place), self.repository, self.keys, deltas=(one,))
        return one

    @property
    def running_root(self) -> Path:
        """Return the root partition that runs."""
        return find_slots(read_table(self.host.disk), self.host.root_hash).running.root.node

    def boots(self) -> str:
        """Return the version that the boot loader would start; its root and its kernel image must be whole."""
        whole = [path.name for path in self.host.entries.iterdir() if path.stat().st_size]
        entry = choose(parse_entries(whole, "host"))
        assert entry is not None, "nothing boots"
        slots = find_slots(read_table(self.host.disk), self.host.root_hash)
        slot = next(slot for slot in (slots.running, slots.other) if slot.release == entry.release)
        run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash])
        assert (self.host.entries / entry.filename).read_bytes() == self.kernel(entry.version)
        return entry.version

    def final(self) -> dict[str, bytes]:
        """Return what must be the same however an update came there; table entries have random parts."""
        slot = self.slot
        files = {path.name: path.read_bytes() for path in self.host.entries.iterdir()}
        parts = {part.node.name: part.node.read_bytes() for part in (slot.root, slot.verity, slot.signature)}
        return files | parts | {"release": str(slot.release).encode(), "hash": slot.root_hash.encode()}

    def keep(self) -> Callable[[], None]:
        """Return what takes disk, ESP and state back to how they are now."""
        kept = self.folder / "kept"
        kept.mkdir()
        self.host.state.mkdir(exist_ok=True)
        self._copy(self.folder, kept)
        return partial(self._copy, kept, self.folder)

    def _copy(self, source: Path, target: Path) -> None:
        run(["cp", "--sparse=always", *source.glob("disk.raw*"), target])
        for folder in (self.host.entries, self.host.state):
            shutil.rmtree(target / folder.name, ignore_errors=True)
            shutil.copytree(source / folder.name, target / folder.name)

    def stored(self, name: str, version: str = "2") -> Path:
        """Return a payload of a release in the repository: ``index``, ``segments`` or ``signature``."""
        release = Store.open(self.repository).release(Named(channel="stable", name="host", version=version))
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


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def delta_files(old_root: bytes, old_uki: bytes, build: Path) -> tuple[bytes, bytes]:
    """Return an index and segments: half of the root is copied, the rest and the kernel image need the old ones."""
    root, uki, half = (build / "root").read_bytes(), (build / "uki").read_bytes(), MIB // 2
    packer = zstandard.ZstdCompressor(dict_data=raw_dictionary(old_uki), write_content_size=True)
    stored = [zstandard.compress(root[half:]), packer.compress(uki)]
    copy = Range(source=Reference.OLD_ROOT, offset=0, length=half)
    words = Range(source=Reference.OLD_UKI, offset=0, length=len(old_uki))
    outputs = {
        "root": Output(
            bytes=len(root),
            segments=(
                Segment(
                    output="root",
                    offset=0,
                    length=half,
                    sha256=sha256(root[:half]),
                    method=Method.COPY,
                    ranges=(copy,),
                ),
                Segment(
                    output="root",
                    offset=half,
                    length=len(root) - half,
                    sha256=sha256(root[half:]),
                    method=Method.ZSTD,
                    stored_bytes=len(stored[0]),
                    stored_sha256=sha256(stored[0]),
                ),
            ),
        ),
        "uki": Output(
            bytes=len(uki),
            segments=(
                Segment(
                    output="uki",
                    offset=0,
                    length=len(uki),
                    sha256=sha256(uki),
                    method=Method.ZSTD,
                    ranges=(words,),
                    stored_offset=len(stored[0]),
                    stored_bytes=len(stored[1]),
                    stored_sha256=sha256(stored[1]),
                ),
            ),
        ),
    }
    references = {Reference.OLD_ROOT: len(old_root), Reference.OLD_UKI: len(old_uki)}
    return encode_index(Index(outputs=outputs, references=references)), b"".join(stored)


@contextmanager
def made_world(folder: Path, root_sectors: int) -> Iterator[World]:
    disk = folder / "disk.raw"
    (folder / "running").write_bytes(b"release one " * 4096 + bytes(MIB - 12 * 4096))
    root_hash = verity(folder / "running", folder / "running-tree")
    with disk.open("wb") as file:
        file.truncate(16 * MIB + 2 * 512 * root_sectors)
    run(["sfdisk", "--quiet", disk], stdin=SCRIPT.format(*halves(root_hash), root=root_sectors).encode())
    for part in read_table(disk).partitions:
        part.node.write_bytes(b"\xff" * part.size * 512)
    slots = find_slots(read_table(disk), root_hash)
    for part, name in ((slots.running.root, "running"), (slots.running.verity, "running-tree")):
        with part.node.open("r+b") as file:
            file.write((folder / name).read_bytes())
    entries, repository, state = folder / "esp", folder / "repository", folder / "state"
    entries.mkdir()
    repository.mkdir()
    (entries / "host_1.efi").write_bytes(b"kernel 1")
    runtime = folder / "run"
    host = UpdateHost(
        name="host", version="1", root_hash=root_hash, disk=disk, entries=entries, state=state, runtime=runtime
    )
    keys = make_keys(datetime.now(UTC)).keyring
    server = Server(repository)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    source = Source(url=url, name="host", channel="stable", root=keys.root, cache=state / "tuf")
    yield World(folder=folder, repository=repository, keys=keys, host=host, source=source, server=server)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """Return a host with slots of 2 MiB."""
    with made_world(folder, 4096) as made:
        yield made


@pytest.fixture
def large_world(folder: Path) -> Iterator[World]:
    """Return a host with slots of 64 MiB, enough for a release of many segments."""
    with made_world(folder, 131072) as made:
        yield made
