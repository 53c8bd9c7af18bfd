"""The whole updater against a disk image, a folder as ESP and a repository on loopback, with the real programs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostctl.boot.slots import find_slots, halves, read_table
from hostctl.repository.client import PayloadError, RepositoryUntrustedError, Source
from hostctl.repository.metadata import RepositoryKeys, initial_root, signer
from hostctl.repository.publish import BuildError, PublishedError, publish
from hostctl.run import run
from hostctl.update import history
from hostctl.update.stream import StreamError
from hostctl.update.updater import (
    RollbackError,
    RootMismatchError,
    SlotTooSmallError,
    UpdateBusyError,
    UpdateHost,
    UpdateRefusedError,
    locked,
    rollback,
    update,
)

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
    keys: RepositoryKeys
    host: UpdateHost
    source: Source

    def build(self, version: str, *, size: int = MIB, edit: Callable[[Path], None] | None = None) -> Path:
        """Make a build; ``edit`` alters its folder before the manifest is written."""
        build = self.folder / f"build-{version}"
        build.mkdir(exist_ok=True)
        content = (hashlib.sha256(version.encode()).digest() * (size // 32))[:size]
        (build / "root").write_bytes(content)
        (build / "root.zst").write_bytes(zstandard.compress(content))
        (build / "sig").write_text(json.dumps({"rootHash": version}))
        (build / "uki").write_bytes(f"kernel {version}".encode() * 1000)
        root_hash = verity(build / "root", build / "tree")
        if edit is not None:
            edit(build)
        names = {"root": "root", "root.zst": "root.zst", "verity-sig": "sig", "uki": "uki"}
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
        """Return the newest release's payload in the repository."""
        found = sorted(self.repository.glob(f"targets/host/x86-64/stable/*/*.{name}"), key=lambda path: path.parent)
        return found[-1]

    @property
    def entries(self) -> list[str]:
        return sorted(path.name for path in self.host.entries.iterdir())

    @property
    def other(self) -> str | None:
        return find_slots(read_table(self.host.disk), self.host.root_hash).other.release


def verity(root: Path, tree: Path) -> str:
    words: list[str | Path] = ["veritysetup", "format", f"--salt={SALT}", f"--uuid={UUID}", root, tree]
    found = re.search(r"Root hash:\s+([0-9a-f]{64})", run(words).text)
    assert found is not None
    return found[1]


def zeros(size: int) -> Callable[[Path], None]:
    """Return what replaces a build's payload by ``size`` compressed zeros."""

    def edit(build: Path) -> None:
        (build / "root.zst").write_bytes(zstandard.compress(bytes(size)))

    return edit


def make_keys() -> RepositoryKeys:
    roots = [Ed25519PrivateKey.generate() for _ in range(3)]
    targets, snapshot, timestamp = (Ed25519PrivateKey.generate() for _ in range(3))
    public = [key.public_key() for key in (targets, snapshot, timestamp)]
    root = initial_root(roots, public[0], public[1], public[2], datetime(2090, 1, 1, tzinfo=UTC))
    return RepositoryKeys(root=root, targets=signer(targets), snapshot=signer(snapshot), timestamp=signer(timestamp))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    disk, root_sectors = tmp_path / "disk.raw", 4096
    (tmp_path / "running").write_bytes(b"one" * 4096)
    root_hash = verity(tmp_path / "running", tmp_path / "running-tree")
    with disk.open("wb") as file:
        file.truncate(24 * MIB)
    run(["sfdisk", "--quiet", disk], stdin=SCRIPT.format(*halves(root_hash), root=root_sectors).encode())
    for part in read_table(disk).partitions:
        part.node.write_bytes(b"\xff" * part.size * 512)
    slots = find_slots(read_table(disk), root_hash)
    slots.running.root.node.write_bytes((tmp_path / "running").read_bytes())
    slots.running.verity.node.write_bytes((tmp_path / "running-tree").read_bytes())
    entries, repository, state = tmp_path / "esp", tmp_path / "repository", tmp_path / "state"
    entries.mkdir()
    repository.mkdir()
    (entries / "host_1.efi").write_bytes(b"kernel 1")
    host = UpdateHost(name="host", version="1", root_hash=root_hash, disk=disk, entries=entries, state=state)
    keys = make_keys()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(repository)))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    source = Source(url=url, name="host", channel="stable", root=keys.root, cache=state / "tuf")
    yield World(folder=tmp_path, repository=repository, keys=keys, host=host, source=source)
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_newer(world: World) -> None:
    world.publish("1")
    assert update(world.host, world.source).staged is None
    assert world.entries == ["host_1.efi"]
    assert not history.read(world.host.history)


def test_update_and_again(world: World) -> None:
    world.publish("2")
    world.publish("10")
    stages: list[str] = []
    outcome = update(world.host, world.source, lambda stage, _done, _total: stages.append(stage))
    assert (outcome.staged, outcome.written) == ("10", True)
    assert list(dict.fromkeys(stages)) == ["check", "invalidate", "download", "verify", "label", "stage"]
    assert world.entries == ["host_1.efi", "host_10+3.efi"]
    assert (world.host.entries / "host_10+3.efi").read_bytes() == (world.folder / "build-10/uki").read_bytes()
    slot = find_slots(read_table(world.host.disk), world.host.root_hash).other
    assert slot.release == "host_10"
    run(["veritysetup", "verify", slot.root.node, slot.verity.node, slot.root_hash])
    assert slot.root.node.read_bytes()[:MIB] == (world.folder / "build-10/root").read_bytes()
    assert slot.signature.node.read_bytes().rstrip(b"\0") == b'{"rootHash": "10"}'
    assert [event.event for event in history.read(world.host.history)] == [history.STAGED]
    again = update(world.host, world.source)
    assert (again.staged, again.written) == ("10", False)


@pytest.mark.parametrize("name", ["root.zst", "sig", "uki"])
@pytest.mark.parametrize("cut", [False, True])
def test_altered_payload(world: World, name: str, *, cut: bool) -> None:
    world.publish("2")
    path = world.stored(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if cut else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises((PayloadError, StreamError)):
        update(world.host, world.source)
    assert world.entries == ["host_1.efi"]
    assert history.read(world.host.history)[-1].event == history.FAILED
    path.write_bytes(whole)
    assert update(world.host, world.source).staged == "2"
    assert world.other == "host_2"


def test_signed_root_of_another_hash(world: World) -> None:
    world.publish("2", edit=zeros(MIB))
    with pytest.raises(RootMismatchError):
        update(world.host, world.source)
    assert world.entries == ["host_1.efi"]
    assert world.other is None


@pytest.mark.parametrize("size", [MIB - 4096, MIB + 4096])
def test_signed_root_of_another_size(world: World, size: int) -> None:
    world.publish("2", edit=zeros(size))
    with pytest.raises(StreamError, match="root"):
        update(world.host, world.source)
    assert world.other is None


def test_other_keys(world: World) -> None:
    publish(world.build("2"), world.repository, make_keys())
    before = world.host.disk.read_bytes()
    with pytest.raises(RepositoryUntrustedError):
        update(world.host, world.source)
    assert world.host.disk.read_bytes() == before
    assert world.entries == ["host_1.efi"]


def test_too_small(world: World) -> None:
    update_two(world)
    bless(world, "2")
    world.publish("3", size=3 * MIB)
    with pytest.raises(SlotTooSmallError):
        update(world.host, world.source)
    assert world.other == "host_2"


def update_two(world: World) -> None:
    world.publish("2")
    update(world.host, world.source)


def bless(world: World, version: str) -> None:
    (world.host.entries / f"host_{version}+3.efi").rename(world.host.entries / f"host_{version}.efi")


def rebooted(world: World) -> World:
    """Return the world in which the host runs what was in the other slot."""
    slot = find_slots(read_table(world.host.disk), world.host.root_hash).other
    assert slot.release is not None
    host = replace(world.host, version=slot.release.removeprefix("host_"), root_hash=slot.root_hash)
    return replace(world, host=host)


def test_unblessed_host_keeps_its_way_back(world: World) -> None:
    update_two(world)
    world.publish("3")
    after = rebooted(world)
    with pytest.raises(UpdateRefusedError, match="not blessed"):
        update(after.host, after.source)
    assert after.entries == ["host_1.efi", "host_2+3.efi"]
    bless(after, "2")
    assert update(after.host, after.source).staged == "3"
    assert after.entries == ["host_2.efi", "host_3+3.efi"]


def test_given_up_release_is_not_taken_again(world: World) -> None:
    update_two(world)
    (world.host.entries / "host_2+3.efi").rename(world.host.entries / "host_2+0-3.efi")
    assert update(world.host, world.source).staged is None
    assert [event.event for event in history.read(world.host.history)] == [history.STAGED, history.BAD]
    world.publish("3")
    assert update(world.host, world.source).staged == "3"


@pytest.mark.parametrize("stage", ["invalidate", "download", "verify", "label", "stage"])
def test_cut_off_anywhere_then_repeated(world: World, stage: str) -> None:
    world.publish("2")

    def cut(reached: str, _done: int, _total: int) -> None:
        if reached == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(world.host, world.source, cut)
    assert world.entries == ["host_1.efi"]
    assert update(world.host, world.source).written
    assert world.entries == ["host_1.efi", "host_2+3.efi"]
    assert world.other == "host_2"


def test_two_at_once(world: World) -> None:
    with locked(world.host), pytest.raises(UpdateBusyError) as caught:
        update(world.host, world.source)
    assert caught.value.exit_code == 75


def test_rollback(world: World) -> None:
    with pytest.raises(RollbackError):
        rollback(world.host)
    update_two(world)
    bless(world, "2")
    after = rebooted(world)
    assert rollback(after.host) == "1"
    assert after.entries == ["host_1.efi", "host_2+0.efi"]
    assert update(world.host, world.source).staged is None


def test_rollback_to_damaged_root_is_refused(world: World) -> None:
    update_two(world)
    bless(world, "2")
    after = rebooted(world)
    node = find_slots(read_table(after.host.disk), after.host.root_hash).other.root.node
    node.write_bytes(b"x" + node.read_bytes()[1:])
    with pytest.raises(RollbackError, match="verify"):
        rollback(after.host)
    assert after.entries == ["host_1.efi", "host_2.efi"]


def test_published_version_never_changes(world: World) -> None:
    world.publish("2")
    assert not publish(world.folder / "build-2", world.repository, world.keys).new
    with pytest.raises(PublishedError, match="other content"):
        world.publish("2", size=2 * MIB)


def test_altered_build_is_not_signed(world: World) -> None:
    build = world.build("2")
    (build / "uki").write_bytes(b"evil" + (build / "uki").read_bytes()[4:])
    with pytest.raises(BuildError, match="manifest"):
        publish(build, world.repository, world.keys)
    assert not list(world.repository.iterdir())
