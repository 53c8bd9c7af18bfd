"""The part of ``host.yaml`` on images: how registries are reached, what images must show, and how much is kept."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Literal

from hostctl.config.values import ByteSize, RegistryMirror


def _pem(text: str, kind: str) -> int:
    """Return how many blocks of a kind a PEM text (RFC 7468) has; none if any part of it is anything else."""
    block = re.compile(rf"-----BEGIN {kind}-----\n((?:[A-Za-z0-9+/=]+\n)+)-----END {kind}-----\n?", re.ASCII)
    if block.sub("", text).strip():
        return 0
    try:
        return sum(len(base64.b64decode(body.replace("\n", ""), validate=True)) > 0 for body in block.findall(text))
    except ValueError:
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SignaturePolicy:
    """What an image must show before a host takes it from a registry."""

    require: Literal["none", "digest", "cosign"] = "none"
    """none: nothing; digest: workloads, their image volumes, `build` and what it builds from name images by digest;
    cosign: a signature by `key`, made as `cosign sign --recursive` does, of the image for this platform. Images that
    came with the release are never asked for one."""
    key: str | None = None
    """The public key of cosign, in PEM."""

    def __post_init__(self) -> None:
        """Refuse a key that is none or of no use, and its absence."""
        if (self.require == "cosign") != (self.key is not None):
            raise ValueError("key: require: cosign needs the public key, and nothing else uses one")
        if self.key is not None and _pem(self.key, "PUBLIC KEY") != 1:
            raise ValueError("key: must be one public key in PEM, -----BEGIN PUBLIC KEY-----")


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """How one registry is reached, and what its images must show."""

    insecure: bool = False
    """Speak plain HTTP, or HTTPS without a trusted certificate. Images are still verified by digest."""
    mirrors: tuple[RegistryMirror, ...] = ()
    """Asked before the registry itself, in this order; names stay those of the registry."""
    ca: str | None = None
    """Certificates, in PEM, that sign this registry's and its mirrors' own, besides those that Debian trusts."""
    signatures: SignaturePolicy | None = None
    """What its images must show; by default what `images.signatures` says."""

    def __post_init__(self) -> None:
        """Refuse certificates that are none."""
        if self.ca is not None and _pem(self.ca, "CERTIFICATE") < 1:
            raise ValueError("ca: must be certificates in PEM, -----BEGIN CERTIFICATE-----")
        if self.ca is not None and self.insecure:
            raise ValueError("ca: a registry that is insecure is not checked by a certificate")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePolicy:
    """What this host keeps of images, and what images must show."""

    max_size: ByteSize | None = None
    """Most that pulled images may take on the disk; by default a quarter of the file system. Images that no generation
    needs leave first, the longest unused before others."""
    signatures: SignaturePolicy = field(default_factory=SignaturePolicy)
    """What images must show of registries that say nothing else."""
