"""A repository on the disk: read and verified as a whole, changed in memory, written by one commit.

Files appear in the order payloads, targets, channels, ``targets``, snapshot, timestamp, each in one rename and flushed.
Nothing that a timestamp leads to is ever overwritten, so a host that looks at any moment sees the old state or the new
one, and what a run that was cut off left is written again by the next one. One change at a time: see :func:`locked`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from hostctl.durable import sha256_file, sync_directory, write_file
from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.repository import roles
from hostctl.repository.clock import SIGNED, stamp
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import MetadataError, load_next_root, load_verified, sign
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

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOT_FILE = re.compile(r"([1-9][0-9]{0,8})\.root\.json")


class NoRepositoryError(HostctlError):
    """The folder is no repository."""

    id = "repository-missing"


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
        raise _no_repository(repository, str(error)) from error
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


def _no_repository(path: Path, details: str) -> NoRepositoryError:
    hint = "`hostctl repo init --repository DIR --keys DIR` makes one"
    return NoRepositoryError(f"there is no repository in {path}", details=details, hint=hint)


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
        root = read_roots(path)[-1].signed
        timestamp = _read(path, f"{TIMESTAMP}.json", Timestamp, root)
        snapshot = _read(path, f"{timestamp.snapshot_meta.version}.{SNAPSHOT}.json", Snapshot, root)
        targets = _read(path, f"{_version(snapshot, TARGETS)}.{TARGETS}.json", Targets, root)
        channels: dict[str, Targets] = {}
        for name in roles.channels(targets):
            channels[name] = _read(path, f"{_version(snapshot, name)}.{name}.json", Targets, targets, name)
            _require_own(name, channels[name], targets)
        found = SignedRoles(root=root, timestamp=timestamp, snapshot=snapshot, targets=targets, channels=channels)
        return cls(path, found, {TIMESTAMP, SNAPSHOT, TARGETS, *channels})

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
        path = stored(self.path, target, info.hashes["sha256"])
        if path in self._small:
            return self._small[path]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoredFileError(f"cannot read {path}", details=str(error), hint=_REPAIR) from error
        if hashlib.sha256(data).hexdigest() != info.hashes["sha256"]:
            raise StoredFileError(f"{path} is not what the metadata of channel {channel} say", hint=_REPAIR)
        return data

    def put(self, channel: str, target: str, data: bytes, offer: Offer | None = None) -> None:
        """Have the next commit store a small target and list it in a channel."""
        digest = hashlib.sha256(data).hexdigest()
        self._small[stored(self.path, target, digest)] = data
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


_REPAIR = "`hostctl repo verify` names all that is wrong; publishing the same builds again restores their files"


def _version(snapshot: Snapshot, role: str) -> int:
    meta = snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise MetadataError(f"the snapshot does not name the metadata of {role}")
    return meta.version


def _require_own(channel: str, role: Targets, targets: Targets) -> None:
    """Refuse a channel that lists what is not its own, or what has no place: its signer means harm, or errs."""
    delegation = (targets.delegations.roles or {}).get(channel) if targets.delegations is not None else None
    for target, info in role.targets.items():
        own = delegation is not None and delegation.is_delegated_path(target)
        if not own or {"", ".", ".."} & set(target.split("/")) or not _SHA256.fullmatch(info.hashes.get("sha256", "")):
            raise MetadataError(f"channel {channel} lists {target[:200]!r}, which it may not")


def stored(repository: Path, target: str, sha256: str) -> Path:
    """Return where a target's content lies (TUF 1.0, consistent snapshots: the hash before the file's name)."""
    path = PurePosixPath(target)
    return repository / "targets" / path.parent / f"{sha256}.{path.name}"


def load_verified_root(data: bytes) -> Root:
    """Parse a root that must be signed by itself.

    Raises:
        MetadataError: it is broken or not.
    """
    root = roles.parse_root(data)
    return load_verified(data, Root, root).signed


def read_roots(repository: Path) -> list[Metadata[Root]]:
    """Return the roots of a repository, oldest first, each signed as its former one and itself demand.

    Raises:
        NoRepositoryError: there is none.
        MetadataError: one is broken, missing or not signed by the right keys.
    """
    files = root_files(repository)
    if not files:
        raise _no_repository(repository, f"{repository / 'metadata'} has no root metadata")
    chain: list[Metadata[Root]] = []
    for version, path in sorted(files.items()):
        data = path.read_bytes()
        if chain:
            chain.append(load_next_root(data, chain[-1].signed))
        else:
            chain.append(load_verified(data, Root, load_verified_root(data)))
        if chain[-1].signed.version != version:
            raise MetadataError(f"{path} holds version {chain[-1].signed.version} of the root")
    return chain


def root_files(repository: Path) -> Mapping[int, Path]:
    """Return the files with root metadata by their version."""
    found = {}
    for path in (repository / "metadata").glob("*.root.json"):
        if match := _ROOT_FILE.fullmatch(path.name):
            found[int(match[1])] = path
    return found


def newest_root(repository: Path) -> bytes:
    """Return the newest root as it is stored; the repository has one."""
    files = root_files(repository)
    return files[max(files)].read_bytes()


def require_root(repository: Path, keyring: Keyring) -> None:
    """Refuse a repository that hosts of ``keyring`` would not trust.

    Raises:
        MetadataError: the keyring's root is not among the repository's.
    """
    version = load_verified_root(keyring.root).version
    path = root_files(repository).get(version)
    if path is None or path.read_bytes() != keyring.root:
        raise MetadataError(
            f"{repository} belongs to other keys",
            details=f"root {version} of the keys is not the repository's",
            hint="use the keys that made it",
        )


def _read(
    repository: Path, file: str, kind: type[roles.OnlineRole], delegator: Root | Targets, role: str = ""
) -> roles.OnlineRole:
    path = repository / "metadata" / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MetadataError(f"cannot read {path}", details=str(error), hint=_REPAIR) from error
    return load_verified(data, kind, delegator, role).signed
