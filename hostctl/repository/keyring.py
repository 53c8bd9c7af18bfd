"""The private keys at hand: files of ``hostctl keys init``, looked up by their key id.

Not all keys need to be there: root keys and the one of ``targets`` belong offline, and each command needs only what
signs what it changes. Nothing here prints or logs a private key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Role

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository import roles
from hostctl.repository.metadata import public, sign, signer

ROOT_FILE = "tuf/root.json"
CHANNEL_PREFIX = "channel-"
DEFAULT_CHANNEL = "stable"
_INIT_HINT = "`hostctl keys init DIR` makes keys"


class KeyFileError(HostctlError):
    """A key cannot be read."""

    id = "key-file"


class MissingKeyError(HostctlError):
    """Something must be signed by a key that is not at hand."""

    id = "key-missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyring:
    """Private keys, and the root metadata that hosts were built with."""

    root: bytes
    signers: Mapping[str, Signer]
    """By key id."""
    channels: Mapping[str, Key] = field(default_factory=dict)
    """Public keys of the channels that there are key files of."""
    folder: Path | None = None
    """Where the keys were read; new ones are written there."""
    unreadable: tuple[str, ...] = ()
    """Names of key files that cannot be read, for the error when one is needed."""

    @classmethod
    def load(cls, folder: Path) -> Keyring:
        """Read the keys in ``folder``, the one of ``hostctl keys init``.

        Raises:
            KeyFileError: there is no root metadata.
        """
        try:
            root = (folder / ROOT_FILE).read_bytes()
        except OSError as error:
            raise KeyFileError(f"cannot read {folder / ROOT_FILE}", details=str(error), hint=_INIT_HINT) from error
        signers: dict[str, Signer] = {}
        channels: dict[str, Key] = {}
        unreadable: list[str] = []
        for path in sorted((folder / "tuf").glob("*.pem")):
            try:
                private = load_private_key(path)
            except KeyFileError as error:
                unreadable.append(f"{path.name}: {error.details or error.brief}")
                continue
            key = public(private.public_key())
            signers[key.keyid] = signer(private)
            if path.stem.startswith(CHANNEL_PREFIX):
                channels[path.stem.removeprefix(CHANNEL_PREFIX)] = key
        return cls(root=root, signers=signers, channels=channels, folder=folder, unreadable=tuple(unreadable))

    def having(self, role: Role) -> list[Signer]:
        """Return the signers of a role that are at hand."""
        return [self.signers[key_id] for key_id in role.keyids if key_id in self.signers]

    def for_role(self, role: Role, name: str) -> list[Signer]:
        """Return the signers of a role that are at hand.

        Raises:
            MissingKeyError: they are fewer than the role needs.
        """
        found = self.having(role)
        if len(found) < role.threshold:
            wanted = ", ".join(key_id[:8] for key_id in role.keyids)
            raise MissingKeyError(
                f"{role.threshold} of the keys of {name} must sign this, and {len(found) or 'none'} is here",
                details="\n".join([f"keys of {name}: {wanted}", *self.unreadable]),
                hint="name the folder that has the key with --keys; one that is kept offline signs where it is kept",
            )
        return found


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key from a PEM file (PKCS #8).

    Raises:
        KeyFileError: the file is missing or holds something else.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"cannot read the signing key {path}", details=str(error), hint=_INIT_HINT) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key")
    return key


def load_public_key(path: Path) -> Key:
    """Read the public half of an Ed25519 key from a PEM file with either half.

    Raises:
        KeyFileError: the file is missing or holds something else.
    """
    try:
        data = path.read_bytes()
        if b"PRIVATE KEY" in data:
            return public(load_private_key(path).public_key())
        key = load_pem_public_key(data)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"cannot read the key {path}", details=str(error), hint=_INIT_HINT) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} is not an Ed25519 key")
    return public(key)


def write_private_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a key as a PEM file that only its owner can read."""
    write_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKeys:
    """A new set of private keys, and the root metadata that they made."""

    root: bytes
    private: Mapping[str, Ed25519PrivateKey]
    """By the stem of their file's name: ``root-1``, ``targets``, ``channel-stable`` and so on."""

    @property
    def keyring(self) -> Keyring:
        """Return them as a keyring that is in no folder."""
        signers = [signer(key) for key in self.private.values()]
        named = {
            name.removeprefix(CHANNEL_PREFIX): public(key.public_key())
            for name, key in self.private.items()
            if name.startswith(CHANNEL_PREFIX)
        }
        return Keyring(root=self.root, signers={one.public_key.keyid: one for one in signers}, channels=named)


def make_keys(
    now: datetime,
    *,
    channels: Sequence[str] = (DEFAULT_CHANNEL,),
    root_keys: int = roles.ROOT_KEYS,
    threshold: int = roles.ROOT_THRESHOLD,
) -> NewKeys:
    """Make the keys of a new repository.

    Args:
        now: from when the root metadata live, UTC.
        channels: names of the channels to make keys for.
        root_keys: how many root keys.
        threshold: how many of them must sign a later root; the first one is signed by all.

    Raises:
        UsageError: the threshold cannot be met, or a channel cannot be named so.
    """
    names = [f"root-{number}" for number in range(1, root_keys + 1)]
    online = roles.TOP_LEVEL[1:]
    stems = [*names, *online, *(f"{CHANNEL_PREFIX}{roles.channel_name(channel)}" for channel in channels)]
    private = {stem: Ed25519PrivateKey.generate() for stem in stems}
    keys = {stem: public(key.public_key()) for stem, key in private.items()}
    expires = roles.expiry(roles.ROOT, now)
    root = roles.first_root([keys[name] for name in names], {name: keys[name] for name in online}, expires, threshold)
    return NewKeys(root=sign(root, [signer(private[name]) for name in names]), private=private)
