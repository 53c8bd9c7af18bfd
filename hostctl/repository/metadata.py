"""TUF roles of a repository: making, loading and signing metadata, on python-tuf's Metadata API alone.

Pure apart from reading key files: bytes and keys in, bytes out. Nothing here publishes or downloads.
The format is the one of the TUF specification 1.0, https://theupdateframework.github.io/specification/latest/ .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from hostctl.errors import HostctlError

ROOT_THRESHOLD = 2
ONLINE_ROLES = ("targets", "snapshot", "timestamp")

SignedRole = TypeVar("SignedRole", Root, Timestamp, Snapshot, Targets)


class KeyFileError(HostctlError):
    """A signing key cannot be read."""

    id = "key-file"


class MetadataError(HostctlError):
    """Metadata is not what it should be: unreadable, or not signed by the right keys."""

    id = "repository-metadata"


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryKeys:
    """What signs a repository day by day. The root keys are not among them, they stay offline."""

    root: bytes
    """The root metadata that hosts were built with."""
    targets: Signer
    snapshot: Signer
    timestamp: Signer


def _public(key: Ed25519PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key)


def signer(key: Ed25519PrivateKey) -> Signer:
    """Return the TUF signer of a private key."""
    return CryptoSigner(key, _public(key.public_key()))


def encode(metadata: Metadata[SignedRole]) -> bytes:
    """Return metadata as the compact JSON that is stored and hashed."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def initial_root(
    root_keys: Sequence[Ed25519PrivateKey],
    targets: Ed25519PublicKey,
    snapshot: Ed25519PublicKey,
    timestamp: Ed25519PublicKey,
    expires: datetime,
) -> bytes:
    """Return version 1 of the root role, signed by all root keys; :data:`ROOT_THRESHOLD` of them are enough later.

    Args:
        root_keys: private keys of the root role, at least :data:`ROOT_THRESHOLD`, all different.
        targets: public key that signs releases.
        snapshot: public key that signs which metadata go together.
        timestamp: public key that signs what is newest.
        expires: when hosts stop to trust it, UTC.

    Raises:
        ValueError: there are fewer different root keys than the threshold.
    """
    signers = [signer(key) for key in root_keys]
    if len({one.public_key.keyid for one in signers}) < max(ROOT_THRESHOLD, len(signers)):
        raise ValueError(f"a root needs at least {ROOT_THRESHOLD} different keys")
    root = Root(version=1, expires=expires.replace(microsecond=0), consistent_snapshot=True)
    for one in signers:
        root.add_key(one.public_key, Root.type)
    root.roles[Root.type].threshold = ROOT_THRESHOLD
    for role, key in zip(ONLINE_ROLES, (targets, snapshot, timestamp), strict=True):
        root.add_key(_public(key), role)
    metadata = Metadata(root)
    for one in signers:
        metadata.sign(one, append=True)
    metadata.verify_delegate(Root.type, metadata)
    return encode(metadata)


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key from a PEM file (PKCS #8).

    Raises:
        KeyFileError: the file is missing or holds something else.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(
            f"cannot read the signing key {path}", details=str(error), hint="`hostctl keys init` makes keys"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key")
    return key


def load_keys(folder: Path) -> RepositoryKeys:
    """Read the keys that sign releases from ``folder``, the one of ``hostctl keys init``.

    Raises:
        KeyFileError: a file is missing or broken.
        MetadataError: the root does not trust one of these keys.
    """
    try:
        root = (folder / "tuf/root.json").read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"cannot read {folder / 'tuf/root.json'}", details=str(error), hint="`hostctl keys init` makes keys"
        ) from error
    signers = {role: signer(load_private_key(folder / f"tuf/{role}.pem")) for role in ONLINE_ROLES}
    roles = load(root, Root).signed.roles
    for role, one in signers.items():
        if one.public_key.keyid not in roles[role].keyids:
            raise MetadataError(f"the key {role}.pem is not the one that {folder / 'tuf/root.json'} trusts")
    return RepositoryKeys(root=root, **signers)


def load(data: bytes, kind: type[SignedRole]) -> Metadata[SignedRole]:
    """Parse metadata of one role. The signatures are not looked at.

    Raises:
        MetadataError: it is broken, or of another role.
    """
    try:
        metadata = Metadata[SignedRole].from_bytes(data)
    except (TufError, ValueError, KeyError) as error:
        raise MetadataError(f"{kind.__name__.lower()} metadata is broken", details=str(error)) from error
    if not isinstance(metadata.signed, kind):
        raise MetadataError(f"this is {metadata.signed.type} metadata, not {kind.__name__.lower()}")
    return metadata


def load_verified(data: bytes, kind: type[SignedRole], root: Metadata[Root]) -> Metadata[SignedRole]:
    """Parse metadata of one role and check that ``root`` trusts who signed it.

    Raises:
        MetadataError: it is broken, of another role, or not signed by the role's key.
    """
    metadata = load(data, kind)
    try:
        root.verify_delegate(kind.type, metadata)
    except (TufError, ValueError) as error:
        raise MetadataError(
            f"{kind.type} metadata is not signed by the key that the root trusts", details=str(error)
        ) from error
    return metadata


def sign(role: SignedRole, key: Signer) -> bytes:
    """Return ``role`` signed by ``key``, encoded."""
    metadata = Metadata(role)
    metadata.sign(key)
    return encode(metadata)
