"""A repository, or somebody on the way to it, that means harm; clocks that are wrong; a state folder that is gone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hostctl_qemu.faulty_http import FaultyServer
from tuf.api.metadata import Root, Timestamp

from hostctl.errors import HostctlError
from hostctl.repository import clock
from hostctl.repository.client import RepositoryClient, Source
from hostctl.repository.errors import (
    PayloadError,
    RepositoryExpiredError,
    RepositoryRollbackError,
    RepositoryUnavailableError,
    RepositoryUntrustedError,
    TooLongError,
)
from hostctl.repository.fetch import Fetcher
from hostctl.repository.keyring import Keyring, NewKeys, make_keys
from hostctl.repository.metadata import load, public, sign, signer
from hostctl.repository.patience import Limits
from hostctl.repository.publish import publish

LIMITS = Limits(connect=2.0, silence=0.6, patience=1.2, rate=20_000.0, attempts=2, backoff=0.01, metadata=4.0)
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@dataclass
class Site:
    """A repository, a server for it that can be told to fail, and a host's view of it."""

    folder: Path
    repository: Path
    keys: NewKeys
    source: Source
    server: FaultyServer
    mirrors: list[FaultyServer] = field(default_factory=list)

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
        publish(build, self.repository, keys or self.keys.keyring, now=now)

    def client(self, wall: datetime | None = None) -> RepositoryClient:
        return RepositoryClient(self.source, Fetcher(LIMITS), wall=lambda: wall or datetime.now(UTC))

    def versions(self, wall: datetime | None = None) -> list[str]:
        return [offer.version for offer in self.client(wall).offers()]

    @property
    def memory(self) -> clock.Memory:
        return clock.read(clock.memory_file(self.source.cache.parent))

    def metadata(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (self.repository / "metadata").iterdir()}

    def replay(self, files: dict[Path, bytes]) -> None:
        shutil.rmtree(self.repository / "metadata")
        (self.repository / "metadata").mkdir()
        for path, data in files.items():
            path.write_bytes(data)

    def sign_timestamp(self, key: Ed25519PrivateKey, version: int, expires: datetime, signed: datetime | None) -> None:
        path = self.repository / "metadata/timestamp.json"
        timestamp = load(path.read_bytes(), Timestamp).signed
        timestamp.version, timestamp.expires = version, expires
        timestamp.unrecognized_fields.clear()
        if signed is not None:
            timestamp.unrecognized_fields[clock.SIGNED] = clock.stamp(signed)
        path.write_bytes(sign(timestamp, [signer(key)]))

    def rotate_timestamp_key(self) -> Ed25519PrivateKey:
        root = load(self.keys.root, Root).signed
        new = Ed25519PrivateKey.generate()
        (old,) = root.roles[Timestamp.type].keyids
        root.revoke_key(old, Timestamp.type)
        root.add_key(public(new.public_key()), Timestamp.type)
        root.version = 2
        signers = [signer(self.keys.private[f"root-{number}"]) for number in (1, 2)]
        (self.repository / "metadata/2.root.json").write_bytes(sign(root, signers))
        return new


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    keys = make_keys(NOW - 400 * DAY)
    repository = tmp_path / "repository"
    repository.mkdir()
    with FaultyServer(repository, tick=0.02) as server:
        cache = tmp_path / "state/tuf"
        source = Source(url=server.url, name="host", channel="stable", root=keys.root, cache=cache)
        yield Site(folder=tmp_path, repository=repository, keys=keys, source=source, server=server)


def test_honest_repository_is_read(site: Site) -> None:
    site.publish("9")
    site.publish("10")
    client = site.client()
    assert [offer.version for offer in client.offers()] == ["10", "9"]
    release = client.release("10")
    assert client.small(release.signature) == (site.folder / "build-10/verity-sig").read_bytes()
    segments = (site.repository / release.segments.path).read_bytes()
    assert b"".join(client.ranges(release.segments, 10, 40)) == segments[10:40]
    assert client.deltas("10") == ()


def test_one_look_sees_one_state(site: Site) -> None:
    site.publish("2")
    client = site.client()
    site.publish("3")
    assert [offer.version for offer in client.offers()] == ["2"]
    assert client.release("2").version == "2"


def test_foreign_keys(site: Site) -> None:
    site.publish("2", make_keys(NOW).keyring)
    with pytest.raises(RepositoryUntrustedError):
        site.client()


def test_expired(site: Site) -> None:
    site.publish("2", now=NOW - 15 * DAY)
    with pytest.raises(RepositoryExpiredError) as caught:
        site.client()
    assert caught.value.id == "repository-expired"


def test_back_in_time(site: Site) -> None:
    site.publish("2")
    old = site.metadata()
    site.publish("3")
    assert site.versions() == ["3", "2"]
    site.replay(old)
    with pytest.raises(RepositoryRollbackError):
        site.client()


def test_back_in_time_when_the_cache_is_gone(site: Site) -> None:
    site.publish("2")
    old = site.metadata()
    site.publish("3")
    site.client()
    site.replay(old)
    shutil.rmtree(site.source.cache)
    with pytest.raises(RepositoryRollbackError):
        site.client()


def test_roles_that_are_gone(site: Site) -> None:
    site.publish("2")
    site.client()
    for path in (site.repository / "metadata").glob("*.stable.json"):
        path.unlink()
    shutil.rmtree(site.source.cache)
    with pytest.raises(RepositoryUnavailableError):
        site.client()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b"[" * 100_000, b"<html>login</html>"], ids=range(5))
@pytest.mark.parametrize("role", ["timestamp", "1.snapshot", "1.targets", "1.stable"])
def test_nonsense_for_metadata(site: Site, role: str, content: bytes) -> None:
    site.publish("2")
    (site.repository / f"metadata/{role}.json").write_bytes(content)
    with pytest.raises((RepositoryUntrustedError, TooLongError)):
        site.client().offers()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b"[" * 100_000])
def test_poisoned_state_is_not_trusted(site: Site, content: bytes) -> None:
    site.publish("2")
    site.client()
    for path in site.source.cache.parent.rglob("*.json"):
        path.write_bytes(content)
    assert site.versions() == ["2"]


def test_planted_root_in_cache_is_not_trusted(site: Site) -> None:
    evil = make_keys(NOW).keyring
    site.publish("2", evil)
    RepositoryClient(replace(site.source, root=evil.root), Fetcher(LIMITS))
    with pytest.raises(RepositoryUntrustedError):
        site.client()


ROLES = ["timestamp", "snapshot", "targets.json", "stable.json", "releases.json"]


@pytest.mark.parametrize("part", ROLES)
@pytest.mark.parametrize("mode", ["endless", "portal", "truncated"])
def test_a_fault_leaves_nothing_behind(site: Site, part: str, mode: str) -> None:
    site.publish("2")
    site.server.fail(part, mode)
    with pytest.raises(HostctlError) as caught:
        site.client().offers()
    assert caught.value.id.startswith(("repository-", "payload-"))
    site.server.heal()
    assert site.versions() == ["2"]


@pytest.mark.parametrize("part", ROLES)
def test_a_mirror_steps_in(site: Site, part: str) -> None:
    site.publish("2")
    site.server.fail(part, "broken")
    with FaultyServer(site.repository) as mirror:
        site.source = replace(site.source, mirrors=(mirror.url,))
        assert site.versions() == ["2"]


def test_a_mirror_steps_in_for_one_that_lies(site: Site, tmp_path: Path) -> None:
    site.publish("2")
    honest = tmp_path / "honest"
    shutil.copytree(site.repository, honest)
    shutil.rmtree(site.repository)
    site.publish("2", make_keys(NOW).keyring)
    with FaultyServer(honest) as mirror:
        site.source = replace(site.source, mirrors=(mirror.url,))
        assert site.versions() == ["2"]


def test_a_mirror_is_not_trusted_more(site: Site, tmp_path: Path) -> None:
    site.publish("2", make_keys(NOW).keyring)
    site.server.fail("", "missing")
    with FaultyServer(site.repository) as mirror:
        site.source = replace(site.source, mirrors=(mirror.url,))
        with pytest.raises(RepositoryUntrustedError):
            site.client()


def test_a_payload_that_is_wrong_everywhere_is_refused(site: Site) -> None:
    site.publish("2")
    client = site.client()
    release = client.release("2")
    site.server.fail("payloads/", "bit-flip")
    with pytest.raises(PayloadError):
        client.small(release.signature)
    with FaultyServer(site.repository) as mirror:
        site.source = replace(site.source, mirrors=(mirror.url,))
        client = site.client()
        assert client.small(release.signature) == (site.folder / "build-2/verity-sig").read_bytes()
        assert client.addresses == 2


def test_nobody_there(site: Site) -> None:
    site.source = replace(site.source, url="http://127.0.0.1:1/")
    with pytest.raises(RepositoryUnavailableError) as caught:
        site.client()
    assert caught.value.exit_code == 69


def test_state_that_takes_nothing_stops_no_update(site: Site) -> None:
    site.publish("2")
    (site.folder / "file").touch()
    site.source = replace(site.source, cache=site.folder / "file/state/tuf")
    client = site.client()
    assert [offer.version for offer in client.offers()] == ["2"]
    assert "file" in client.unkept


def test_no_scratch_folder_is_an_error_with_a_hint(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish("2")
    (site.folder / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(site.folder / "file"))
    with pytest.raises(RepositoryUnavailableError, match="cannot be kept"):
        site.client()


def test_a_root_that_was_seen_cannot_be_hidden_again(site: Site) -> None:
    site.publish("2")
    new = site.rotate_timestamp_key()
    site.sign_timestamp(new, 2, NOW + DAY, NOW)
    site.client()
    (site.repository / "metadata/2.root.json").unlink()
    site.sign_timestamp(site.keys.private["timestamp"], 3, NOW + DAY, NOW)
    with pytest.raises(RepositoryUntrustedError):
        site.client()


def test_a_clock_in_1970_brings_nothing_expired_back(site: Site) -> None:
    site.publish("2", now=NOW - 15 * DAY)
    site.source = replace(site.source, built=NOW)
    with pytest.raises(RepositoryExpiredError):
        site.client(wall=clock.START)
    assert site.memory.proven is None


def test_what_was_signed_is_a_floor_for_a_clock_in_1970(site: Site) -> None:
    site.publish("2", now=NOW - 15 * DAY)
    old = site.metadata()
    site.publish("3", now=NOW)
    site.client()
    assert site.memory.proven == NOW
    assert site.client(wall=clock.START).now == NOW
    # Even if the numbers of versions were of no help: the old state has expired, whatever the clock says.
    clock.write(clock.memory_file(site.source.cache.parent), replace(site.memory, timestamp=0))
    shutil.rmtree(site.source.cache)
    site.replay(old)
    with pytest.raises(RepositoryExpiredError):
        site.client(wall=clock.START)


def test_a_clock_without_a_battery_follows_what_is_signed(site: Site) -> None:
    site.source = replace(site.source, built=NOW - 100 * DAY)
    for version, days in (("2", -10), ("3", -5), ("4", 0)):
        site.publish(version, now=NOW + days * DAY)
        assert site.client(wall=clock.START).now == NOW + days * DAY


def test_a_clock_ten_years_ahead_is_refused_and_leaves_nothing_behind(site: Site) -> None:
    site.publish("2", now=NOW)
    site.client()
    before = site.memory.proven
    for _ in range(3):
        with pytest.raises(RepositoryExpiredError):
            site.client(wall=NOW + 3650 * DAY)
    assert site.memory.proven == before
    assert site.versions() == ["2"]


def test_one_look_reads_the_clock_once(site: Site) -> None:
    site.publish("2")
    walls = iter([NOW])
    client = RepositoryClient(site.source, Fetcher(LIMITS), wall=lambda: next(walls))
    client.release("2")
    assert client.now == NOW


def test_a_stolen_timestamp_key_cannot_stop_updates_for_ever(site: Site) -> None:
    site.source = replace(site.source, built=NOW - 100 * DAY)
    site.publish("2", now=NOW)
    stolen = site.keys.private["timestamp"]
    site.sign_timestamp(stolen, 90, NOW + 3000 * DAY, NOW + 30 * DAY)
    site.client()
    assert site.memory.proven is not None
    assert site.memory.proven <= datetime.now(UTC)
    # A host that has no clock believes it, until the key is replaced.
    site.client(wall=clock.START)
    assert site.memory.proven == NOW + 30 * DAY
    new = site.rotate_timestamp_key()
    site.sign_timestamp(new, 3, NOW + DAY, NOW)
    assert site.versions(wall=clock.START) == ["2"]
    assert site.memory.proven == NOW


def test_one_root_key_of_two_is_not_enough(site: Site) -> None:
    site.publish("2")
    site.rotate_timestamp_key()
    path = site.repository / "metadata/2.root.json"
    root = load(path.read_bytes(), Root).signed
    path.write_bytes(sign(root, [signer(site.keys.private["root-1"])]))
    with pytest.raises(RepositoryUntrustedError):
        site.client()


def test_loss_of_all_state_leaves_the_floor_of_the_image(site: Site) -> None:
    site.source = replace(site.source, built=NOW)
    site.publish("2", now=NOW)
    site.client()
    shutil.rmtree(site.source.cache.parent)
    assert site.client(wall=clock.START).now == NOW
