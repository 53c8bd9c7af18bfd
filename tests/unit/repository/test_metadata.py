"""Roles and signatures: the root's threshold, delegation of channels, who is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from hostctl.errors import UsageError
from hostctl.repository import roles
from hostctl.repository.keyring import Keyring, MissingKeyError, make_keys
from hostctl.repository.metadata import (
    MetadataError,
    copy_signatures,
    encode,
    load,
    load_next_root,
    load_verified,
    missing_signatures,
    public,
    sign,
    signer,
)

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def key() -> Key:
    return public(Ed25519PrivateKey.generate().public_key())


def test_root_needs_two_of_three() -> None:
    made = make_keys(NOW)
    root = load(made.root, Root)
    assert root.signed.consistent_snapshot is True
    assert (root.signed.roles["root"].threshold, len(root.signed.roles["root"].keyids)) == (2, 3)
    first, second, third = list(root.signatures)
    del root.signatures[first]
    load_verified(encode(root), Root, root.signed)
    del root.signatures[second]
    assert missing_signatures(root, root.signed, "root") == (1, sorted([first, second]))
    with pytest.raises(MetadataError, match="enough of the keys"):
        load_verified(encode(root), Root, root.signed)
    assert third in root.signatures


@pytest.mark.parametrize(("count", "threshold"), [(1, 2), (3, 0), (3, 4), (0, 1)])
def test_a_threshold_that_cannot_be_met_is_refused(count: int, threshold: int) -> None:
    with pytest.raises(UsageError, match="cannot be met"):
        make_keys(NOW, root_keys=count, threshold=threshold)


def test_the_same_key_twice_is_no_second_key() -> None:
    one, others = key(), {name: key() for name in roles.TOP_LEVEL[1:]}
    with pytest.raises(UsageError, match="cannot be met"):
        roles.first_root([one, one], others, NOW, 2)


def test_one_key_signing_twice_counts_once() -> None:
    made = make_keys(NOW)
    root = load(made.root, Root)
    root.signatures.clear()
    for _ in range(2):
        root.sign(signer(made.private["root-1"]), append=True)
    with pytest.raises(MetadataError):
        load_verified(encode(root), Root, root.signed)


def test_foreign_signature_is_refused() -> None:
    mine, theirs = make_keys(NOW), make_keys(NOW)
    root = load(mine.root, Root)
    with pytest.raises(MetadataError, match="not signed"):
        load_verified(sign(root.signed, [signer(theirs.private["root-1"])] * 2), Root, root.signed)


def test_a_root_follows_only_the_one_before_it_signed_by_both() -> None:
    made = make_keys(NOW)
    old, new = [signer(made.private[f"root-{number}"]) for number in (1, 2)], signer(Ed25519PrivateKey.generate())
    before = load(made.root, Root).signed
    following = load(made.root, Root).signed
    gone = [key_id for key_id in following.roles["root"].keyids if key_id != old[0].public_key.keyid]
    roles.replace_keys(following, "root", gone, [new.public_key])
    following.version = 2
    load_next_root(sign(following, [*old, new]), before)
    for signers in ([*old], [old[0], new], [new]):
        with pytest.raises(MetadataError):
            load_next_root(sign(following, signers), before)
    following.version = 3
    with pytest.raises(MetadataError, match="cannot follow"):
        load_next_root(sign(following, [*old, new]), before)


def test_a_role_keeps_as_many_keys_as_its_threshold() -> None:
    root = load(make_keys(NOW).root, Root).signed
    with pytest.raises(UsageError, match="cannot meet"):
        roles.replace_keys(root, "root", root.roles["root"].keyids[:2], [])


def test_a_channel_is_signed_by_its_own_key_below_its_own_paths() -> None:
    targets = roles.empty(load(make_keys(NOW).root, Root).signed).targets
    stable, beta = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    roles.delegate(targets, "stable", [public(stable.public_key())])
    roles.delegate(targets, "beta", [public(beta.public_key())])
    targets = load(sign(targets, []), Targets).signed
    assert roles.channels(targets) == ("beta", "stable")
    signed = sign(Targets(version=1), [signer(beta)])
    load_verified(signed, Targets, targets, "beta")
    with pytest.raises(MetadataError, match="stable"):
        load_verified(signed, Targets, targets, "stable")
    found = {
        path: {one for one, _ in targets.delegations.get_roles_for_target(path)}
        for path in ("edge/x86-64/stable/releases.json", "edge/x86-64/stable/1/release.json", "edge/x86-64/other/x")
        if targets.delegations is not None
    }
    assert list(found.values()) == [{"stable"}, {"stable"}, set()]


def test_a_new_key_of_a_channel_ends_the_old_one() -> None:
    targets = roles.empty(load(make_keys(NOW).root, Root).signed).targets
    old, new = Ed25519PrivateKey.generate(), key()
    roles.delegate(targets, "stable", [public(old.public_key())])
    roles.delegate(targets, "stable", [new])
    assert targets.delegations is not None
    assert set(targets.delegations.keys) == {new.keyid}
    with pytest.raises(MetadataError):
        load_verified(sign(Targets(version=1), [signer(old)]), Targets, targets, "stable")


@pytest.mark.parametrize("name", ["root", "targets", "snapshot", "timestamp", "../x", "a*", "", "Stable", "a/b"])
def test_names_that_no_channel_may_have(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a channel"):
        roles.channel_name(name)


def test_signatures_are_taken_over_only_from_the_same_draft() -> None:
    made = make_keys(NOW)
    root = load(made.root, Root)
    draft = Metadata[Root].from_bytes(made.root)
    draft.signatures.clear()
    known = set(root.signatures)
    assert sorted(copy_signatures(root, draft, known)) == sorted(known)
    assert copy_signatures(root, draft, known) == []
    draft.signed.version = 7
    with pytest.raises(MetadataError, match="another one"):
        copy_signatures(root, draft, known)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"signed": {}, "signatures": []}', b'{"signed": 1}']
)
def test_nonsense_is_no_metadata(data: bytes) -> None:
    with pytest.raises(MetadataError):
        load(data, Root)


def test_a_missing_key_is_named_with_what_cannot_be_read() -> None:
    made = make_keys(NOW)
    role = load(made.root, Root).signed.roles["targets"]
    bare = Keyring(root=made.root, signers={}, unreadable=("targets.pem: permission denied",))
    with pytest.raises(MissingKeyError) as caught:
        bare.for_role(role, "targets")
    assert role.keyids[0][:8] in caught.value.details
    assert "targets.pem" in caught.value.details
