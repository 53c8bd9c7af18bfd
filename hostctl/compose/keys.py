"""The keys that sign a release: Secure Boot, verity and repository, as ``hostctl keys init`` makes them.

These are development keys: unencrypted files that only their owner can read. In production the root keys of the
repository and the key of ``targets`` stay offline; the keys of channels, snapshot and timestamp sign day by day.
Nothing here prints or logs a private key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID

from hostctl.compose.secure_boot import VARIABLES, Owner, variable_update
from hostctl.durable import sync_tree, write_file
from hostctl.errors import HostctlError
from hostctl.repository import keyring
from hostctl.repository.keyring import CHANNEL_PREFIX, DEFAULT_CHANNEL, write_private_key
from hostctl.repository.roles import ROOT_KEYS, ROOT_THRESHOLD, channel_name

LIFETIME = timedelta(days=3650)


class KeysError(HostctlError):
    """Signing keys are missing, incomplete, or already there."""

    id = "keys"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySet:
    """Where the keys of a build lie. Private keys are named by their paths and read only by what signs."""

    secure_boot_key: Path
    secure_boot_certificate: Path
    verity_key: Path
    verity_certificate: Path
    enrolment: tuple[Path, ...]
    """Signed variable updates: PK, KEK and db."""
    tuf_root: bytes
    """Root metadata that a host's trust starts from."""

    @classmethod
    def load(cls, folder: Path) -> KeySet:
        """Find the keys in ``folder``.

        Raises:
            KeysError: one is missing, or this user may not read it.
        """
        keys = cls._paths(folder)
        missing = [str(path.relative_to(folder)) for path in keys if not path.is_file()]
        if missing:
            raise KeysError(
                f"there are no signing keys in {folder}",
                details=f"missing: {', '.join(missing)}",
                hint=f"`hostctl keys init {folder}` makes a complete set of development keys",
            )
        closed = [str(path.relative_to(folder)) for path in keys if not os.access(path, os.R_OK)]
        if closed:
            raise KeysError(
                f"the signing keys in {folder} cannot be read by this user",
                details=", ".join(closed),
                hint="build as their owner, or name others with --keys",
            )
        boot_key, boot_certificate, verity_key, verity_certificate, root, *enrolment = keys
        return cls(
            secure_boot_key=boot_key,
            secure_boot_certificate=boot_certificate,
            verity_key=verity_key,
            verity_certificate=verity_certificate,
            enrolment=tuple(enrolment),
            tuf_root=root.read_bytes(),
        )

    @staticmethod
    def _paths(folder: Path) -> tuple[Path, ...]:
        names = ("secure-boot.key", "secure-boot.crt", "verity.key", "verity.crt", "tuf/root.json")
        return (*(folder / name for name in names), *(folder / f"secure-boot/{name}.auth" for name in VARIABLES))

    @property
    def identity(self) -> str:
        """A hash of the public parts: what a stage that signs depends on."""
        public = (self.secure_boot_certificate, self.verity_certificate, *self.enrolment)
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in public]
        return hashlib.sha256("".join([*digests, hashlib.sha256(self.tuf_root).hexdigest()]).encode()).hexdigest()


def _secret(path: Path, key: rsa.RSAPrivateKey) -> None:
    plain = serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    write_file(path, data, mode=0o600)


def _owner(name: str, now: datetime) -> Owner:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Owner(key=key, certificate=builder.sign(key, hashes.SHA256()))


def make_keys(
    folder: Path,
    now: datetime | None = None,
    *,
    channels: Sequence[str] = (DEFAULT_CHANNEL,),
    root_keys: int = ROOT_KEYS,
    threshold: int = ROOT_THRESHOLD,
) -> None:
    """Make a complete set of development keys in ``folder``, which must not hold anything yet.

    Args:
        folder: is created, readable by its owner only.
        now: start of the certificates' lifetime, UTC; none means the clock.
        channels: the channels of the repository, each of which has a key of its own.
        root_keys: how many root keys the repository has.
        threshold: how many of them must sign a change of its keys.

    Raises:
        KeysError: the folder holds something; keys are never overwritten.
        UsageError: the threshold cannot be met, or a channel cannot be named so.
    """
    if folder.exists() and any(folder.iterdir()):
        raise KeysError(
            f"{folder} is not empty, and keys are never overwritten", hint="name a new folder, or remove this one"
        )
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    repository = keyring.make_keys(moment, channels=channels, root_keys=root_keys, threshold=threshold)
    for path in (folder, folder / "tuf", folder / "secure-boot"):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    for stem, title in (("secure-boot", "hostctl Secure Boot"), ("verity", "hostctl verity")):
        owner = _owner(title, moment)
        _secret(folder / f"{stem}.key", owner.key)
        write_file(folder / f"{stem}.crt", owner.certificate.public_bytes(serialization.Encoding.PEM))
        if stem == "secure-boot":
            for variable in VARIABLES:
                write_file(folder / f"secure-boot/{variable}.auth", variable_update(variable, owner, moment))
    _make_repository_keys(folder / "tuf", repository)
    sync_tree(folder)


def add_channel(folder: Path, channel: str) -> Path:
    """Make the key of another channel in ``folder`` and return its file.

    Raises:
        KeysError: there is one.
        UsageError: a channel cannot be named so.
    """
    path = folder / f"tuf/{CHANNEL_PREFIX}{channel_name(channel)}.pem"
    if path.exists():
        raise KeysError(f"{path} is there already, and keys are never overwritten")
    if not path.parent.is_dir():
        raise KeysError(f"there are no keys in {folder}", hint=f"`hostctl keys init {folder}` makes them")
    write_private_key(path, ed25519.Ed25519PrivateKey.generate())
    return path


def _make_repository_keys(folder: Path, repository: keyring.NewKeys) -> None:
    for stem, key in repository.private.items():
        write_private_key(folder / f"{stem}.pem", key)
    write_file(folder / "root.json", repository.root)
