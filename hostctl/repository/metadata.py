"""TUF metadata as bytes: parsing, checking who signed, signing, on python-tuf's Metadata API alone.

Pure: bytes and keys in, bytes out. Nothing here reads files, publishes or downloads.
The format is the one of the TUF specification 1.0, https://theupdateframework.github.io/specification/latest/ .
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from hostctl.errors import HostctlError

if TYPE_CHECKING:  # a host verifies without this package; only builders sign
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

AnyRole = Root | Timestamp | Snapshot | Targets
SignedRole = TypeVar("SignedRole", Root, Timestamp, Snapshot, Targets)


class MetadataError(HostctlError):
    """Metadata is not what it should be: unreadable, or not signed by the right keys."""

    id = "repository-metadata"


def public(key: Ed25519PublicKey) -> Key:
    """Return a public key as TUF names it."""
    return SSlibKey.from_crypto(key)


def signer(key: Ed25519PrivateKey) -> Signer:
    """Return the TUF signer of a private key."""
    return CryptoSigner(key, SSlibKey.from_crypto(key.public_key()))


def encode(metadata: Metadata[Any]) -> bytes:
    """Return metadata as the compact JSON that is stored and hashed."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def sign(role: AnyRole, signers: Iterable[Signer]) -> bytes:
    """Return ``role`` signed by each of ``signers``, encoded."""
    metadata = Metadata[Any](role)
    for one in signers:
        metadata.sign(one, append=True)
    return encode(metadata)


def load(data: bytes, kind: type[SignedRole]) -> Metadata[SignedRole]:
    """Parse metadata of one role. The signatures are not looked at.

    Raises:
        MetadataError: it is broken, or of another role.
    """
    try:
        metadata = Metadata[SignedRole].from_bytes(data)
    except (TufError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MetadataError(f"{kind.type} metadata is broken", details=str(error)[:500]) from error
    if not isinstance(metadata.signed, kind):
        raise MetadataError(f"this is {metadata.signed.type} metadata, not {kind.type}")
    return metadata


def load_verified(
    data: bytes, kind: type[SignedRole], delegator: Root | Targets, role: str = ""
) -> Metadata[SignedRole]:
    """Parse metadata of one role and check that ``delegator`` trusts who signed it.

    Args:
        data: the encoded metadata.
        kind: class of the role.
        delegator: who names the role's keys.
        role: its name; by default the one that its class has.

    Raises:
        MetadataError: it is broken, of another role, or not signed by enough of the role's keys.
    """
    metadata, name = load(data, kind), role or kind.type
    try:
        delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except (TufError, ValueError) as error:
        raise MetadataError(
            f"{name} metadata is not signed by enough of the keys that {delegator.type} metadata names for it",
            details=str(error),
        ) from error
    return metadata


def load_next_root(data: bytes, before: Root) -> Metadata[Root]:
    """Parse a successor of ``before``, which must be signed by enough keys of both.

    Raises:
        MetadataError: it is broken, not the next version, or not signed by enough keys.
    """
    metadata = load_verified(data, Root, before)
    load_verified(data, Root, metadata.signed)
    if metadata.signed.version != before.version + 1:
        raise MetadataError(f"root {metadata.signed.version} cannot follow root {before.version}")
    return metadata


def missing_signatures(metadata: Metadata[Any], delegator: Root | Targets, role: str) -> tuple[int, list[str]]:
    """Return how many signatures ``metadata`` lacks to be ``role`` for ``delegator``, and by which key ids they can be.

    Both are empty when it has enough.
    """
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    lacking = max(0, result.threshold - len(result.signed))
    return lacking, sorted(result.unsigned) if lacking else []


def copy_signatures(source: Metadata[Any], target: Metadata[Any], key_ids: Collection[str]) -> list[str]:
    """Add to ``target`` the signatures of ``source`` by ``key_ids`` that it lacks, and return by whom.

    Raises:
        MetadataError: the two do not say the same.
    """
    if source.signed_bytes != target.signed_bytes:
        raise MetadataError("the signed file is another one than the draft that waits for signatures")
    added = []
    for key_id, signature in source.signatures.items():
        if key_id in key_ids and key_id not in target.signatures:
            target.signatures[key_id] = signature
            added.append(key_id)
    return added
