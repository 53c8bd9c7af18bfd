"""Seals a root: EROFS image, dm-verity tree, signed root hash. Nothing in the result depends on when or where.

Sources: mkfs.erofs(1); veritysetup(8); UAPI discoverable partitions specification (partition UUIDs from the root
hash, signature partition as JSON); the signature is over the root hash in hexadecimal, as systemd and dm-verity ask.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from hostctl.compose.tools import ToolsRoot
from hostctl.errors import HostctlError
from hostctl.run import run

BLOCK = 4096
# A fixed salt and fixed UUIDs let a host compute the same tree by itself and let two releases share what is the same.
SALT = hashlib.sha256(b"hostctl verity salt, version 1").hexdigest()
NAMESPACE = uuid.UUID("8f4e4a0c-4d61-5d0f-9c64-2a5f6b9f7f11")

_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)


class SealError(HostctlError):
    """A sealing program printed something unexpected."""

    id = "seal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verity:
    """The parameters with which the tree was made, and its root hash."""

    root_hash: str
    salt: str
    uuid: str

    @property
    def data_partition(self) -> str:
        """UUID of the root partition: the first half of the root hash."""
        return str(uuid.UUID(self.root_hash[:32]))

    @property
    def tree_partition(self) -> str:
        """UUID of the verity partition: the second half of the root hash."""
        return str(uuid.UUID(self.root_hash[32:]))


def encode(verity: Verity) -> bytes:
    """Return the parameters as a stage keeps them."""
    return json.dumps(asdict(verity), sort_keys=True).encode()


def decode(data: bytes) -> Verity:
    """Return the parameters that :func:`encode` wrote."""
    return Verity(**json.loads(data))


def derived_uuid(*words: str) -> str:
    """Return the UUID that stands for ``words`` (RFC 9562, version 5)."""
    return str(uuid.uuid5(NAMESPACE, "/".join(words)))


def make_erofs(tools: ToolsRoot, tar: Path, image: Path, *, epoch: int) -> None:
    """Write the EROFS image of a tar. ``epoch``, in seconds, becomes the time of every file.

    All contents come first, in the order of the tar and in blocks of their own, then all inodes and folders: only so
    does mkfs.erofs write them apart. A file more or a longer one then moves contents as a whole and changes inodes in
    one place, and the difference to the former release stays small.
    """
    words = ["mkfs.erofs", "--quiet", f"-T{epoch}", f"-U{derived_uuid('erofs')}", "--sort=none", "-Enoinline_data"]
    run(tools.argv([*words, "--tar=f", str(image), str(tar)], binds=[tar.parent, image.parent]))


def make_verity(tools: ToolsRoot, image: Path, tree: Path) -> Verity:
    """Write the dm-verity hash tree of ``image`` and return its parameters."""
    identity = derived_uuid("verity")
    words = ["veritysetup", "format", f"--salt={SALT}", f"--uuid={identity}", str(image), str(tree)]
    printed = run(tools.argv(words, binds=[image.parent, tree.parent])).text
    found = _ROOT_HASH.search(printed)
    if found is None:
        raise SealError("veritysetup printed no root hash", details=printed)
    return Verity(root_hash=found[1], salt=SALT, uuid=identity)


def sign_root_hash(root_hash: str, key: bytes, certificate: bytes) -> bytes:
    """Return the detached PKCS#7 signature (DER) of a root hash. Without attributes it is the same every time.

    Args:
        root_hash: hexadecimal.
        key: RSA private key, PEM.
        certificate: its certificate, PEM.
    """
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise SealError("the verity key is not an RSA key")
    options = [
        pkcs7.PKCS7Options.DetachedSignature,
        pkcs7.PKCS7Options.NoAttributes,
        pkcs7.PKCS7Options.NoCerts,
        pkcs7.PKCS7Options.Binary,
    ]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(root_hash.encode())
    builder = builder.add_signer(x509.load_pem_x509_certificate(certificate), private, hashes.SHA256())
    return builder.sign(serialization.Encoding.DER, options)


def signature_partition(root_hash: str, signature: bytes, certificate: bytes) -> bytes:
    """Return the content of the signature partition, padded to whole blocks."""
    fingerprint = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()
    document = {
        "rootHash": root_hash,
        "certificateFingerprint": fingerprint,
        "signature": base64.b64encode(signature).decode(),
    }
    data = json.dumps(document).encode()
    return data + bytes(-len(data) % BLOCK)
