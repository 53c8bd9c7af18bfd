"""The keys that sign releases: made once into a folder, read by builds.

Secure Boot and verity keys are RSA 2048 with self-signed certificates, because firmware and the kernel take
nothing newer everywhere; the roles of the repository have Ed25519 keys. Nothing is ever overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository.metadata import initial_root

LIFETIME = timedelta(days=3650)
ROOT_KEYS = 3
PAIRS = ("secure-boot", "verity")


class KeysError(HostctlError):
    """The folder of keys is missing, incomplete, or in the way."""

    id = "keys"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySet:
    """Where the keys of a folder lie; certificates and RSA keys are PEM."""

    folder: Path
    secure_boot_key: Path
    secure_boot_certificate: Path
    verity_key: Path
    verity_certificate: Path
    tuf_root: Path

    @classmethod
    def load(cls, folder: Path) -> KeySet:
        """Return the keys of ``folder``.

        Raises:
            KeysError: a file is missing.
        """
        keys = cls(
            folder=folder,
            secure_boot_key=folder / "secure-boot.key",
            secure_boot_certificate=folder / "secure-boot.crt",
            verity_key=folder / "verity.key",
            verity_certificate=folder / "verity.crt",
            tuf_root=folder / "tuf/root.json",
        )
        files = (keys.secure_boot_key, keys.secure_boot_certificate, keys.verity_key, keys.verity_certificate)
        missing = [str(path) for path in (*files, keys.tuf_root) if not path.is_file()]
        if missing:
            hint = f"`hostctl keys init {folder}` makes keys"
            raise KeysError(f"there are no signing keys in {folder}", details="\n".join(missing), hint=hint)
        return keys


def _pem(key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(key: rsa.RSAPrivateKey, name: str, now: datetime) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hostctl {name}")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def init_keys(folder: Path, now: datetime | None = None) -> KeySet:
    """Make every key into ``folder``, which must be empty or missing.

    Args:
        folder: becomes mode 0700; private keys are 0600.
        now: when certificates start; none means the clock.

    Raises:
        KeysError: the folder has something in it.
    """
    started = now or datetime.now(UTC)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KeysError(f"{folder} is not empty", hint="keys are never overwritten: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / "tuf").mkdir(mode=0o700)
    for name in PAIRS:
        key = rsa.generate_private_key(65537, 2048)
        write_file(folder / f"{name}.key", _pem(key), mode=0o600)
        write_file(folder / f"{name}.crt", _certificate(key, name, started))
    roots = [Ed25519PrivateKey.generate() for _ in range(ROOT_KEYS)]
    online = {name: Ed25519PrivateKey.generate() for name in ("targets", "snapshot", "timestamp")}
    named = {**{f"root-{number}": key for number, key in enumerate(roots, 1)}, **online}
    for name, role_key in named.items():
        write_file(folder / f"tuf/{name}.pem", _pem(role_key), mode=0o600)
    public = {name: role_key.public_key() for name, role_key in online.items()}
    write_file(folder / "tuf/root.json", initial_root(roots, **public, expires=started + LIFETIME))
    return KeySet.load(folder)
