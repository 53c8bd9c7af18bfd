from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Root

from hostctl.repository.metadata import MetadataError, initial_root, load, load_verified, sign, signer

EXPIRES = datetime(2040, 1, 1, tzinfo=UTC)


def keys(count: int) -> list[Ed25519PrivateKey]:
    return [Ed25519PrivateKey.generate() for _ in range(count)]


def root_of(*root_keys: Ed25519PrivateKey) -> bytes:
    targets, snapshot, timestamp = (key.public_key() for key in keys(3))
    return initial_root(root_keys, targets, snapshot, timestamp, EXPIRES)


def test_root_needs_two_of_three() -> None:
    metadata = load(root_of(*keys(3)), Root)
    assert metadata.signed.consistent_snapshot is True
    assert metadata.signed.roles["root"].threshold == 2
    assert len(metadata.signed.roles["root"].keyids) == 3
    first, second, third = list(metadata.signatures)
    del metadata.signatures[first]
    metadata.verify_delegate("root", metadata)
    del metadata.signatures[second]
    with pytest.raises(Exception, match="signed by 1/2"):
        metadata.verify_delegate("root", metadata)
    assert third in metadata.signatures


def test_same_key_twice_is_refused() -> None:
    one = keys(1)[0]
    with pytest.raises(ValueError, match="different"):
        root_of(one, one)


def test_foreign_signature_is_refused() -> None:
    mine, theirs = keys(3), keys(3)
    root = load(root_of(*mine), Root)
    other = load(root_of(*theirs), Root)
    with pytest.raises(MetadataError, match="not signed"):
        load_verified(sign(other.signed, signer(theirs[0])), Root, root)
