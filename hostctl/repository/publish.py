"""Adds a built release to a repository of static files.

The build is checked against its manifest before anything is signed. Files appear in the order payloads, targets,
snapshot, timestamp, each in one rename and flushed: a host that looks at any moment sees the old state or the new one,
and a run that was cut off is completed by running it again. Root keys are not needed here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from pathlib import Path, PurePosixPath

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from hostctl.config.versions import compare
from hostctl.durable import sha256_file, sync_directory, write_file
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.repository.metadata import RepositoryKeys, load, load_verified, sign
from hostctl.repository.whole import (
    Payload,
    Release,
    decode_index,
    decode_release,
    encode_index,
    encode_release,
    folder,
    index_target,
    release_target,
)

TARGETS_LIFE = timedelta(days=365)
TIMESTAMP_LIFE = timedelta(days=30)
DEFAULT_TRIES = 3
_PAYLOADS = {"root": "root.zst", "signature": "verity-sig", "uki": "uki"}


class BuildError(HostctlError):
    """The folder does not hold a whole, unaltered build."""

    id = "build-invalid"


class PublishedError(HostctlError):
    """The version is in the repository already, with other content."""

    id = "already-published"


class RepositoryBusyError(HostctlError):
    """Somebody else publishes to the repository."""

    id = "repository-busy"
    exit_code = EXIT_BUSY


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """A checked build: its description and where its payloads lie."""

    release: Release
    files: Mapping[str, Path]
    """Source of each payload by its target path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a call of :func:`publish` left in the repository."""

    release: Release
    new: bool
    """False if the same release was there before; then only the timestamp was renewed."""


def read_build(build: Path) -> Build:
    """Read a build's manifest and check every file that is published by size and SHA-256.

    Raises:
        BuildError: the manifest is unreadable, or a file is missing or altered.
        DescriptionError: the manifest has values that no host would accept.
    """
    try:
        manifest = json.loads((build / "manifest.json").read_bytes())
        artifacts = {artifact["name"]: artifact for artifact in manifest["artifacts"]}
        prefix = f"{folder(manifest['name'], manifest['channel'])}/{manifest['version']}"
        payloads: dict[str, Payload] = {}
        files: dict[str, Path] = {}
        for key, name in _PAYLOADS.items():
            path = _checked(build, artifacts[name])
            target = f"{prefix}/{path.name}"
            payloads[key] = Payload(target=target, bytes=artifacts[name]["bytes"], sha256=artifacts[name]["sha256"])
            files[target] = path
        release = Release(
            name=manifest["name"],
            version=manifest["version"],
            architecture=manifest["architecture"],
            channel=manifest["channel"],
            root_hash=manifest["root_hash"],
            root_bytes=artifacts["root"]["bytes"],
            salt=manifest["verity"]["salt"],
            uuid=manifest["verity"]["uuid"],
            tries=manifest.get("tries", DEFAULT_TRIES),
            **payloads,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{build} does not hold a build", details=repr(error), hint="`hostctl build` makes one"
        ) from error
    # What hosts would refuse must not be signed.
    return Build(release=decode_release(encode_release(release)), files=files)


def _checked(build: Path, artifact: Mapping[str, object]) -> Path:
    path = PurePosixPath(str(artifact["path"]))
    if path.is_absolute() or ".." in path.parts:
        raise BuildError(f"the manifest names a file outside of the build: {path}")
    file = build / path
    if file.stat().st_size != artifact["bytes"] or sha256_file(file) != artifact["sha256"]:
        raise BuildError(f"{file} is not what the manifest says", hint="build the release again")
    return file


class _Repository:
    """The metadata of a repository on disk: read and verified on entry, written by :meth:`commit`."""

    def __init__(self, path: Path, keys: RepositoryKeys) -> None:
        self.path = path
        self.keys = keys
        self.metadata = path / "metadata"
        self.root: Metadata[Root] = load(keys.root, Root)
        self._adopt_root()
        self.timestamp = self._read_timestamp()
        self.snapshot = self._read_snapshot()
        self.targets = self._read_targets()

    def _adopt_root(self) -> None:
        """Put the root in its place in a new repository; follow signed successors in an old one."""
        first = self.metadata / f"{self.root.signed.version}.root.json"
        if not first.exists():
            self.metadata.mkdir(parents=True, exist_ok=True)
            write_file(first, self.keys.root)
        elif first.read_bytes() != self.keys.root:
            raise PublishedError(f"{self.path} belongs to other keys", hint="publish with the keys that made it")
        while (following := self.metadata / f"{self.root.signed.version + 1}.root.json").exists():
            root = load_verified(following.read_bytes(), Root, self.root)
            self.root = load_verified(following.read_bytes(), Root, root)

    def _read_timestamp(self) -> Timestamp | None:
        path = self.metadata / "timestamp.json"
        return load_verified(path.read_bytes(), Timestamp, self.root).signed if path.exists() else None

    def _read_snapshot(self) -> Snapshot:
        if self.timestamp is None:
            return Snapshot(version=1, meta={"targets.json": MetaFile(version=1)})
        path = self.metadata / f"{self.timestamp.snapshot_meta.version}.snapshot.json"
        return load_verified(path.read_bytes(), Snapshot, self.root).signed

    def _read_targets(self) -> Targets:
        if self.timestamp is None:
            return Targets(version=1)
        path = self.metadata / f"{self.snapshot.meta['targets.json'].version}.targets.json"
        return load_verified(path.read_bytes(), Targets, self.root).signed

    def read(self, target: str) -> bytes | None:
        """Return the content of a small target; none if there is no such target."""
        info = self.targets.targets.get(target)
        return None if info is None else self.stored(target, info.hashes["sha256"]).read_bytes()

    def stored(self, target: str, sha256: str) -> Path:
        """Return where a target's content lies (TUF 1.0, consistent snapshots: hash before the file's name)."""
        path = PurePosixPath(target)
        return self.path / "targets" / path.parent / f"{sha256}.{path.name}"

    def add_bytes(self, target: str, data: bytes) -> None:
        """Store a small target and list it."""
        digest = hashlib.sha256(data).hexdigest()
        place = self.stored(target, digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, data)
        self._list(target, len(data), digest)

    def add_file(self, payload: Payload, source: Path) -> None:
        """Store a payload and list it.

        Raises:
            BuildError: the file changed since it was checked.
        """
        place = self.stored(payload.target, payload.sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() or sha256_file(place) != payload.sha256:
            temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
            try:
                shutil.copyfile(source, temporary)
                if sha256_file(temporary) != payload.sha256:
                    raise BuildError(f"{source} changed while it was published")
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(place)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(place.parent)
        self._list(payload.target, payload.bytes, payload.sha256)

    def _list(self, target: str, length: int, sha256: str) -> None:
        self.targets.targets[target] = TargetFile(length=length, hashes={"sha256": sha256}, path=target)

    def commit(self, now: datetime) -> None:
        """Sign and write the roles; hosts see the change with the last file.

        All three are renewed together, so that a timestamp never outlives what it points to.
        """
        again = self.timestamp is not None
        timestamp = self.timestamp if self.timestamp is not None else Timestamp(version=1)
        for role, life in ((self.targets, TARGETS_LIFE), (self.snapshot, TARGETS_LIFE), (timestamp, TIMESTAMP_LIFE)):
            role.version += again
            role.expires = now.replace(microsecond=0) + life
        self.snapshot.meta["targets.json"].version = self.targets.version
        timestamp.snapshot_meta.version = self.snapshot.version
        write_file(self.metadata / f"{self.targets.version}.targets.json", sign(self.targets, self.keys.targets))
        write_file(self.metadata / f"{self.snapshot.version}.snapshot.json", sign(self.snapshot, self.keys.snapshot))
        write_file(self.metadata / "timestamp.json", sign(timestamp, self.keys.timestamp))
        sync_directory(self.path)


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    repository.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryBusyError(f"somebody else publishes to {repository}", hint="try again later") from error
        yield
    finally:
        os.close(descriptor)


def publish(build: Path, repository: Path, keys: RepositoryKeys, *, now: datetime | None = None) -> Published:
    """Add a build to a repository, which is made if it does not exist.

    Args:
        build: the folder that ``hostctl build`` wrote.
        repository: the folder that is served over HTTP.
        keys: what signs; see :func:`hostctl.repository.metadata.load_keys`.
        now: the time from which expiry counts; none is the present.

    Raises:
        BuildError: the build is not whole.
        PublishedError: the version is there with other content, or the repository has other keys.
        RepositoryBusyError: somebody else publishes.
        MetadataError: the repository's metadata are broken or signed by others.
    """
    checked = read_build(build)
    release = checked.release
    with _locked(repository):
        store = _Repository(repository, keys)
        target = release_target(release.name, release.channel, release.version)
        before = store.read(target)
        if before is not None and before != encode_release(release):
            raise PublishedError(
                f"{release.title} is in {repository} already, with other content",
                details=f"there: root hash {decode_release(before).root_hash}\nhere:  root hash {release.root_hash}",
                hint="a published version never changes: give the release a new version",
            )
        for payload in (release.root, release.signature, release.uki):
            store.add_file(payload, checked.files[payload.target])
        store.add_bytes(target, encode_release(release))
        index = index_target(release.name, release.channel)
        listed = decode_index(found) if (found := store.read(index)) is not None else ()
        versions = tuple(sorted({*listed, release.version}, key=cmp_to_key(compare)))
        store.add_bytes(index, encode_index(versions))
        store.commit(now or datetime.now(UTC))
    return Published(release=release, new=before is None)
