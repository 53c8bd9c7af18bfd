"""A repository on the disk: read and verified as a whole, changed in memory, written by one commit.

Files appear in the order payloads, targets, channels, ``targets``, snapshot, timestamp, each in one rename and flushed.
Nothing that a timestamp leads to is ever overwritten, so a host that looks at any moment sees the old state or the new
one, and what a run that was cut off left is written again by the next one. One change at a time: see :func:`locked`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from securesystemslib.signer import Signer
from tuf.api.metadata import MetaFile, Root, TargetFile, Targets

from hostctl.durable import sha256_file, sync_directory, write_file
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.repository import roles
from hostctl.repository.clock import SIGNED, stamp
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import sign
from hostctl.repository.release import (
    Delta,
    Offer,
    Payload,
    Release,
    decode_deltas,
    decode_offer,
    decode_release,
    decode_versions,
    deltas_target,
    encode_offer,
    release_target,
    versions_target,
)
from hostctl.repository.roles import SNAPSHOT, TARGETS, TIMESTAMP, SignedRoles
from hostctl.repository.stored import (
    REPAIR,
    load_verified_root,
    no_repository,
    read_roles,
    read_roots,
    require_root,
)


class RepositoryBusyError(HostctlError):
    """Somebody else changes the repository."""

    id = "repository-busy"
    exit_code = EXIT_BUSY


class StoredFileError(HostctlError):
    """A file that the repository's metadata name is missing or altered."""

    id = "repository-file"


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Hold the lock of everything that changes a repository; the folder must exist.

    Raises:
        NoRepositoryError: it does not.
        RepositoryBusyError: somebody else holds it.
    """
    try:
        descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise no_repository(repository, str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryBusyError(
                f"somebody else changes {repository}", hint="try again when it is done"
            ) from error
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each of them flushed."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A release of a channel, by what the channel's metadata name it."""

    channel: str
    name: str
    version: str


class Store:
    """The roles of a repository and the files below them."""

    def __init__(self, path: Path, found: SignedRoles, stored: set[str]) -> None:
        """Take roles as they are; :meth:`open` and :meth:`create` find them.

        Args:
            path: the repository.
            found: the roles.
            stored: names of the roles that are on the disk in this version.
        """
        self.path = path
        self.roles = found
        self._stored = stored
        self._changed: set[str] = set()
        self._signed: dict[str, bytes] = {}
        self._small: dict[Path, bytes] = {}

    @classmethod
    def open(cls, path: Path) -> Store:
        """Read the repository in ``path``, starting from the oldest root that is there.

        Raises:
            NoRepositoryError: there is none.
            MetadataError: its metadata are broken or not signed by the right keys.
        """
        found = read_roles(path)
        return cls(path, found, {TIMESTAMP, SNAPSHOT, TARGETS, *found.channels})

    @classmethod
    def open_or_create(cls, path: Path, keyring: Keyring) -> Store:
        """Read the repository in ``path`` if its first commit is there, else begin it.

        Raises:
            MetadataError: its metadata are broken, or it belongs to other keys.
        """
        if not (path / f"metadata/{TIMESTAMP}.json").exists():
            return cls.create(path, keyring)
        require_root(path, keyring)
        return cls.open(path)

    @classmethod
    def create(cls, path: Path, keyring: Keyring) -> Store:
        """Put the root of ``keyring`` into an empty repository; nothing else is written before the first commit.

        Raises:
            MetadataError: there are other keys' roots.
        """
        make_folder(path / "metadata")
        root = load_verified_root(keyring.root)
        place = path / f"metadata/{root.version}.root.json"
        if not place.exists():
            write_file(place, keyring.root)
        require_root(path, keyring)
        store = cls(path, roles.empty(read_roots(path)[-1].signed), set())
        store.touch(TARGETS)
        return store

    @property
    def fresh(self) -> bool:
        """Tell whether nothing was committed yet."""
        return not self._stored

    @property
    def changed(self) -> bool:
        """Tell whether there is something to commit."""
        return bool(self._changed)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(sorted(self.roles.channels))

    def channel(self, name: str) -> Targets:
        """Return the role of a channel.

        Raises:
            NoChannelError: there is none of this name.
        """
        roles.role_of(self.roles.root, self.roles.targets, name)
        return self.roles.channels[name]

    def add_channel(self, name: str) -> None:
        """Begin the metadata of a channel that ``targets`` has just delegated."""
        self.roles.channels[name] = Targets(version=1)
        self._changed |= {name, TARGETS}

    def touch(self, role: str) -> None:
        """Have a role signed anew by the next commit."""
        self._changed.add(role)

    def adopt_targets(self, targets: Targets, data: bytes) -> None:
        """Have the next commit write the next version of ``targets`` as it was signed elsewhere."""
        self.roles.targets = targets
        self._signed[TARGETS] = data
        self._changed.add(TARGETS)

    def listed(self, channel: str) -> tuple[Named, ...]:
        """Return the releases of a channel, by the names of its targets, unordered."""
        found = []
        for target in self.channel(channel).targets:
            parts = target.split("/")
            if len(parts) == 5 and parts[-1] == "release.json":
                found.append(Named(channel=channel, name=parts[0], version=parts[3]))
        return tuple(found)

    def names(self, channel: str) -> tuple[str, ...]:
        """Return the images that a channel has a list of versions of."""
        return tuple(sorted({target.split("/")[0] for target in self.channel(channel).targets}))

    def versions(self, channel: str, name: str) -> tuple[str, ...]:
        """Return the versions of an image in a channel as its list has them."""
        data = self._content(channel, versions_target(name, channel))
        return () if data is None else decode_versions(data)

    def release(self, release: Named) -> Release | None:
        """Return the description of a release; none if the channel does not have it."""
        data = self._content(release.channel, release_target(release.name, release.channel, release.version))
        return None if data is None else decode_release(data)

    def deltas(self, release: Named) -> tuple[Delta, ...]:
        """Return the deltas to a release."""
        data = self._content(release.channel, deltas_target(release.name, release.channel, release.version))
        return () if data is None else decode_deltas(data)

    def offer(self, release: Named) -> Offer | None:
        """Return to whom a release is offered; none if the channel does not have it."""
        target = release_target(release.name, release.channel, release.version)
        info = self.channel(release.channel).targets.get(target)
        return None if info is None else decode_offer(info.custom)

    def _content(self, channel: str, target: str) -> bytes | None:
        info = self.channel(channel).targets.get(target)
        if info is None:
            return None
        path = target_place(self.path, target, info.hashes["sha256"])
        if path in self._small:
            return self._small[path]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoredFileError(f"cannot read {path}", details=str(error), hint=REPAIR) from error
        if hashlib.sha256(data).hexdigest() != info.hashes["sha256"]:
            raise StoredFileError(f"{path} is not what the metadata of channel {channel} say", hint=REPAIR)
        return data

    def put(self, channel: str, target: str, data: bytes, offer: Offer | None = None) -> None:
        """Have the next commit store a small target and list it in a channel."""
        digest = hashlib.sha256(data).hexdigest()
        self._small[target_place(self.path, target, digest)] = data
        info = TargetFile(length=len(data), hashes={"sha256": digest}, path=target)
        if offer is not None:
            info.unrecognized_fields["custom"] = encode_offer(offer)
        if self.channel(channel).targets.get(target) != info:
            self.channel(channel).targets[target] = info
            self._changed.add(channel)

    def drop(self, channel: str, target: str) -> None:
        """List a target no longer."""
        if self.channel(channel).targets.pop(target, None) is not None:
            self._changed.add(channel)

    def put_payload(self, payload: Payload, source: Path) -> None:
        """Store a payload.

        Raises:
            StoredFileError: the source is not the payload.
        """
        place = self.path / payload.path
        if place.exists() and place.stat().st_size == payload.bytes and sha256_file(place) == payload.sha256:
            return
        make_folder(place.parent)
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
        try:
            shutil.copyfile(source, temporary)
            if sha256_file(temporary) != payload.sha256:
                raise StoredFileError(f"{source} changed while it was published")
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(place.parent)

    def commit(self, keyring: Keyring, now: datetime, following: Root | None = None) -> tuple[str, ...]:
        """Sign and write what changed, and the timestamp; hosts see the change with the last file.

        Args:
            keyring: the keys at hand.
            now: from when lives count, UTC.
            following: a root that is about to be written: its keys sign beside those of the present one.

        Returns:
            the roles that were signed.

        Raises:
            MissingKeyError: a key that must sign is not at hand; then nothing was written.
        """
        changed = sorted(self._changed - {TARGETS, SNAPSHOT, TIMESTAMP})
        changed += [TARGETS] if TARGETS in self._changed else []
        changed += [SNAPSHOT] if self._changed - {TIMESTAMP} else []
        order = [*changed, TIMESTAMP]
        signers = {name: self._signers(name, keyring, following) for name in order if name not in self._signed}
        make_folder(self.path / "metadata")
        for place, content in self._small.items():
            if not place.exists() or place.read_bytes() != content:
                make_folder(place.parent)
                write_file(place, content)
        self._small.clear()
        for name in order:
            given = self._signed.pop(name, b"")
            self._write(name, given or self._sign(name, signers[name], now))
        self._changed.clear()
        return tuple(order)

    def _signers(self, name: str, keyring: Keyring, following: Root | None) -> list[Signer]:
        present = roles.role_of(self.roles.root, self.roles.targets, name)
        if following is None or name not in roles.TOP_LEVEL:
            return keyring.for_role(present, name)
        both = [*keyring.for_role(following.roles[name], name), *keyring.having(present)]
        return list({one.public_key.keyid: one for one in both}.values())

    def _sign(self, name: str, signers: list[Signer], now: datetime) -> bytes:
        role = self.roles.by_name(name)
        role.version += name in self._stored
        role.expires = roles.expiry(name, now)
        if name == TIMESTAMP:
            role.unrecognized_fields[SIGNED] = stamp(now)
        return sign(role, signers)

    def _write(self, name: str, data: bytes) -> None:
        role = self.roles.by_name(name)
        self._stored.add(name)
        file = f"{name}.json" if name == TIMESTAMP else f"{role.version}.{name}.json"
        write_file(self.path / "metadata" / file, data)
        meta = MetaFile(role.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
        if name == SNAPSHOT:
            self.roles.timestamp.snapshot_meta = meta
        elif name != TIMESTAMP:
            self.roles.snapshot.meta[f"{name}.json"] = meta


def target_place(repository: Path, target: str, sha256: str) -> Path:
    """Return where a target's content lies (TUF 1.0, consistent snapshots: the hash before the file's name)."""
    path = PurePosixPath(target)
    return repository / "targets" / path.parent / f"{sha256}.{path.name}"
