"""The signed variable updates with which firmware in setup mode enrols our Secure Boot certificate.

systemd-boot hands these files to the firmware (loader/keys/auto). Sources: UEFI specification 2.10, section 8.2.2
(EFI_VARIABLE_AUTHENTICATION_2) and 32.4.1 (EFI_SIGNATURE_LIST).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs7

GLOBAL_VARIABLE = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_TYPE_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
OWNER = uuid.UUID("6a3f2f0e-52c5-5d1c-8a54-8c7f3a6d9e21")
# NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS | TIME_BASED_AUTHENTICATED_WRITE_ACCESS
ATTRIBUTES = 0x27
WIN_CERT_REVISION = 0x0200
WIN_CERT_TYPE_EFI_GUID = 0x0EF1
VARIABLES = {"PK": GLOBAL_VARIABLE, "KEK": GLOBAL_VARIABLE, "db": IMAGE_SECURITY_DATABASE}

_CONTENT_INFO_OID = bytes.fromhex("06092a864886f70d010702")  # pkcs7-signedData


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A Secure Boot key and its certificate."""

    key: RSAPrivateKey
    certificate: x509.Certificate


def signature_list(certificate: x509.Certificate) -> bytes:
    """Return an EFI_SIGNATURE_LIST with one certificate."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    entry = OWNER.bytes_le + der
    return CERT_X509.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def efi_time(moment: datetime) -> bytes:
    """Return an EFI_TIME, in UTC, whole seconds."""
    return struct.pack(
        "<HBBBBBBIhBB", moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, 0, 0, 0, 0, 0
    )


def _signed_data(content_info: bytes) -> bytes:
    """Return the SignedData inside a PKCS#7 ContentInfo; firmware is specified to take only that."""
    start = content_info.index(_CONTENT_INFO_OID) + len(_CONTENT_INFO_OID)
    length = content_info[start + 1]
    return content_info[start + 2 + (length & 0x7F if length & 0x80 else 0) :]


def variable_update(name: str, owner: Owner, moment: datetime) -> bytes:
    """Return the signed update that sets variable ``name`` (PK, KEK or db) to the owner's certificate."""
    content = signature_list(owner.certificate)
    time = efi_time(moment)
    message = name.encode("utf-16-le") + VARIABLES[name].bytes_le + struct.pack("<I", ATTRIBUTES) + time + content
    builder = pkcs7.PKCS7SignatureBuilder().set_data(message)
    builder = builder.add_signer(owner.certificate, owner.key, hashes.SHA256())
    options = [
        pkcs7.PKCS7Options.DetachedSignature,
        pkcs7.PKCS7Options.Binary,
        pkcs7.PKCS7Options.NoAttributes,
    ]
    signature = _signed_data(builder.sign(serialization.Encoding.DER, options))
    header = struct.pack("<IHH", 24 + len(signature), WIN_CERT_REVISION, WIN_CERT_TYPE_EFI_GUID)
    return time + header + CERT_TYPE_PKCS7.bytes_le + signature + content
