"""Registries with certificates, passwords and signatures: what gets in, what does not, and what is left behind."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hostctl_lab.images import layout
from hostctl_lab.registry import PASSWORD, USER, run_registry

from hostctl.compose.tools import ToolsRoot
from hostctl.config.values import ImageReference
from hostctl.image.credentials import CredentialError, CredentialStore, encode
from hostctl.image.login import check
from hostctl.image.refusal import (
    NotThereError,
    PullError,
    RateLimitError,
    UnauthorizedError,
    UnsignedError,
    UntrustedError,
    refusal,
)
from hostctl.image.registry import Access, Skopeo, session
from hostctl.run import failure
from tests.unit.image.conftest import Puller

SHOWN = encode(USER, PASSWORD)


@dataclass(frozen=True)
class Secure:
    """A private registry with a certificate of a private authority."""

    address: str
    ca: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a certificate for 127.0.0.1 that signs itself, and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def secure(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Return a registry that has one image, ``site:1``."""
    folder = tmp_path_factory.mktemp("secure")
    layout(folder / "site", b"site")
    with run_registry(folder / "registry", certificate=certificate, private=True) as running:
        argv = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        argv += [f"--dest-creds={USER}:{PASSWORD}", f"oci:{folder}/site", f"docker://{running.address}/site:1"]
        subprocess.run(argv, check=True)
        yield Secure(running.address, certificate[0].read_text())


def test_certificate_and_password_are_needed(secure: Secure, puller: Puller, tmp_path: Path) -> None:
    site = ImageReference(f"{secure.address}/site:1")
    with pytest.raises(UntrustedError, match="certificate is not trusted"):
        puller.resolve(site, Access())
    with pytest.raises(UnauthorizedError, match="does not let this host"):
        puller.resolve(site, Access(ca=secure.ca))
    with pytest.raises(UnauthorizedError):
        puller.resolve(site, Access(ca=secure.ca, credentials={secure.address: encode(USER, "wrong")}))
    known = Access(ca=secure.ca, credentials={secure.address: SHOWN})
    assert puller.pull(site, access=known).reference == str(site)
    assert not list((tmp_path / "run").iterdir())
    assert SHOWN not in "".join(path.read_text("latin-1") for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_a_login_is_checked(secure: Secure, skopeo: Skopeo) -> None:
    check(secure.address, USER, PASSWORD, Access(ca=secure.ca), skopeo)
    with pytest.raises(UnauthorizedError, match=f"the login to {secure.address}"):
        check(secure.address, USER, "wrong", Access(ca=secure.ca), skopeo)


def test_credentials_are_in_a_private_file_for_as_long_as_they_are_needed(tmp_path: Path) -> None:
    left = tmp_path / "run/999999999-killed"
    left.mkdir(parents=True)
    with session("r.example", Access(credentials={"r.example": SHOWN}), Skopeo(runtime=tmp_path / "run")) as opened:
        assert not left.exists()
        assert opened.folder.stat().st_mode & 0o777 == 0o700
        assert json.loads((opened.folder / "auth.json").read_text()) == {"auths": {"r.example": {"auth": SHOWN}}}
    assert not opened.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-creds has a key for root only")
def test_credentials_are_stored_encrypted(tmp_path: Path) -> None:
    store = CredentialStore(folder=tmp_path / "credentials")
    assert store.get("r.example:5000") is None
    store.put("r.example:5000", SHOWN)
    (stored,) = (tmp_path / "credentials").iterdir()
    assert SHOWN.encode() not in stored.read_bytes()
    assert stored.stat().st_mode & 0o777 == 0o600
    assert store.get("r.example:5000") == SHOWN
    assert store.registries() == ("r.example:5000",)
    stored.rename(stored.with_name("registry-other.example.cred"))
    with pytest.raises(CredentialError, match=r"other\.example cannot be decrypted"):
        store.get("other.example")
    assert (store.remove("other.example"), store.remove("other.example")) == (True, False)


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("a:b", "x"), ("a", ""), ("a", "x\ny")])
def test_credentials_that_no_registry_reads_are_refused(user: str, password: str) -> None:
    with pytest.raises(CredentialError):
        encode(user, password)


@dataclass(frozen=True)
class Signing:
    """Makes keys and signed images with the skopeo that hosts have."""

    tools: ToolsRoot
    folder: Path

    def _run(self, *argv: str) -> None:
        subprocess.run(self.tools.argv(argv, binds=[self.folder]), check=True, capture_output=True)

    def key(self, name: str) -> str:
        """Make a pair of keys and return the public one."""
        (self.folder / "passphrase").write_text("x\n")
        words = ["--output-prefix", f"{self.folder}/{name}", "--passphrase-file", f"{self.folder}/passphrase"]
        self._run("skopeo", "generate-sigstore-key", *words)
        return (self.folder / f"{name}.pub").read_text()

    def push(self, image: Path, target: str, key: str) -> None:
        """Copy an image of a layout into a registry and sign it."""
        (self.folder / "registries.d").mkdir(exist_ok=True)
        (self.folder / "registries.d/x.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
        options = [f"--sign-by-sigstore-private-key={self.folder}/{key}.private", "--dest-tls-verify=false"]
        options += [f"--sign-passphrase-file={self.folder}/passphrase", "--preserve-digests"]
        words = ["--insecure-policy", "--registries.d", f"{self.folder}/registries.d", "copy", "-q", *options]
        self._run("skopeo", *words, f"oci:{image}", f"docker://{target}")


@pytest.fixture
def signing(toolbox: ToolsRoot, tmp_path: Path) -> Signing:
    return Signing(toolbox, tmp_path)


def test_only_what_is_signed_by_the_declared_key_gets_in(
    registry: str, push: Callable[..., None], puller: Puller, signing: Signing, tmp_path: Path
) -> None:
    right, wrong = signing.key("right"), signing.key("wrong")
    digest = layout(tmp_path / "signed", b"signed")
    layout(tmp_path / "unsigned", b"unsigned")
    signed, unsigned = (ImageReference(f"{registry}/{name}:1") for name in ("signed", "unsigned"))
    signing.push(tmp_path / "signed", signed, "right")
    push(tmp_path / "unsigned", unsigned)

    def by(key: str) -> Access:
        return Access(insecure=True, key=key)

    with pytest.raises(UnsignedError, match="no valid signature"):
        puller.pull(signed, access=by(wrong))
    with pytest.raises(UnsignedError, match="no valid signature"):
        puller.pull(unsigned, access=by(right))
    assert puller.store.list() == ()
    assert not list((tmp_path / "store/layers").iterdir())
    image = puller.pull(signed, access=by(right))
    assert image.digest == digest
    assert puller.store.is_signed(digest, by(right).signer(signed))
    assert not puller.store.is_signed(digest, by(wrong).signer(signed))
    assert not puller.store.is_signed(digest, by(right).signer(unsigned))
    with pytest.raises(UnsignedError):
        puller.pull(signed, access=by(wrong))
    assert puller.store.find(signed) == image


def test_a_signature_of_another_repository_does_not_count(
    registry: str, push: Callable[..., None], puller: Puller, signing: Signing, tmp_path: Path
) -> None:
    key = signing.key("right")
    digest = layout(tmp_path / "signed", b"signed")
    signing.push(tmp_path / "signed", f"{registry}/signed:1", "right")
    tag = f"{digest.replace(':', '-')}.sig"
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
    for each in ("1", tag):
        subprocess.run([*copy, f"docker://{registry}/signed:{each}", f"docker://{registry}/moved:{each}"], check=True)
    access = Access(insecure=True, key=key)
    with pytest.raises(UnsignedError):
        puller.pull(ImageReference(f"{registry}/moved:1"), access=access)
    puller.pull(ImageReference(f"{registry}/signed:1"), access=access)
    with pytest.raises(UnsignedError):  # nor when the very image is here
        puller.pull(ImageReference(f"{registry}/moved:1"), access=access)


def test_an_unsigned_image_that_is_here_is_signed_later(
    registry: str, push: Callable[..., None], puller: Puller, signing: Signing, tmp_path: Path
) -> None:
    key = signing.key("right")
    layout(tmp_path / "site", b"site")
    site = ImageReference(f"{registry}/site:1")
    push(tmp_path / "site", site)
    digest = puller.pull(site).digest
    known = Access(insecure=True, key=key)
    assert not puller.store.is_signed(digest, known.signer(site))
    signing.push(tmp_path / "site", site, "right")
    assert puller.pull(site, digest, known).digest == digest
    assert puller.store.is_signed(digest, known.signer(site))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "pinging container registry 127.0.0.1:42911: dial tcp 127.0.0.1:42911: connect: connection refused",
            PullError,
        ),
        ("reading manifest 1 in r.example/site: manifest unknown", NotThereError),
        ("requested access to the resource is denied", UnauthorizedError),
        ("toomanyrequests: You have reached your pull rate limit.", RateLimitError),
        ("Source image rejected: A signature was required, but no signature exists", UnsignedError),
        ('Get "https://r.example/v2/": tls: failed to verify certificate: x509: unknown authority', UntrustedError),
        ("something new", PullError),
    ],
)
def test_what_skopeo_says_is_told_apart(said: str, kind: type[PullError]) -> None:
    escaped = said.replace('"', '\\"')
    error = failure(["skopeo", "copy"], 1, f'time="x" level=fatal msg="{escaped}"\n'.encode())
    found = refusal("pulling x", "r.example", error)
    assert type(found) is kind
    assert found.details == said
