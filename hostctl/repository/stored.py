"""The signed roles of a repository as they lie on the disk: read, verified from the oldest root on, never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hostctl.errors import HostctlError
from hostctl.repository import roles
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import MetadataError, load_next_root, load_verified
from hostctl.repository.roles import SNAPSHOT, TARGETS, TIMESTAMP, SignedRoles

REPAIR = "`hostctl repo verify` names all that is wrong; publishing the same builds again restores their files"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROOT_FILE = re.compile(r"([1-9][0-9]{0,8})\.root\.json")


class NoRepositoryError(HostctlError):
    """The folder is no repository."""

    id = "repository-missing"


def no_repository(path: Path, details: str) -> NoRepositoryError:
    """Return the error for a folder that is no repository."""
    hint = "`hostctl repo init --repository DIR --keys DIR` makes one"
    return NoRepositoryError(f"there is no repository in {path}", details=details, hint=hint)


def read_roles(path: Path) -> SignedRoles:
    """Return the roles of the repository in ``path`` as its newest timestamp leads to them.

    Raises:
        NoRepositoryError: there is none.
        MetadataError: its metadata are broken, not signed by the right keys, or list what they may not.
    """
    root = read_roots(path)[-1].signed
    timestamp = _read(path, f"{TIMESTAMP}.json", Timestamp, root)
    snapshot = _read(path, f"{timestamp.snapshot_meta.version}.{SNAPSHOT}.json", Snapshot, root)
    targets = _read(path, f"{_version(snapshot, TARGETS)}.{TARGETS}.json", Targets, root)
    channels: dict[str, Targets] = {}
    for name in roles.channels(targets):
        channels[name] = _read(path, f"{_version(snapshot, name)}.{name}.json", Targets, targets, name)
        _require_own(name, channels[name], targets)
    return SignedRoles(root=root, timestamp=timestamp, snapshot=snapshot, targets=targets, channels=channels)


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
        raise no_repository(repository, f"{repository / 'metadata'} has no root metadata")
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
        raise MetadataError(f"cannot read {path}", details=str(error), hint=REPAIR) from error
    return load_verified(data, kind, delegator, role).signed
