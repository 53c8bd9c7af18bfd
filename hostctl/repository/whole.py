"""The description of a release whose root travels as one compressed stream: what publishing and updating use now.

Pure: decoding is strict, whoever signed it. Nothing here downloads.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from hostctl.config.values import Name, ReleaseVersion
from hostctl.errors import HostctlError

FORMAT = 1
ARCHITECTURE = "x86-64"
BLOCK = 4096  # of the hash tree
MAX_DESCRIPTION = 1 << 16
_HASH = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DescriptionError(HostctlError):
    """A description of a release, or the list of them, is not well formed."""

    id = "release-description"


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """One file of a release."""

    target: str
    """Its TUF target path."""
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What a host must know to install a release."""

    name: str
    version: str
    architecture: str
    channel: str
    root_hash: str
    root_bytes: int
    """Size of the uncompressed root."""
    salt: str
    """Salt of the hash tree, hexadecimal."""
    uuid: str
    """UUID in the hash tree's superblock."""
    tries: int
    """How often it may be booted before it is given up."""
    root: Payload
    """The root, compressed by zstd."""
    signature: Payload
    """The content of the signature partition."""
    uki: Payload
    """The unified kernel image."""

    @property
    def title(self) -> str:
        """Return ``NAME_VERSION``."""
        return f"{self.name}_{self.version}"


def folder(name: str, channel: str, architecture: str = ARCHITECTURE) -> str:
    """Return the target path below which the releases of a channel lie."""
    return f"{name}/{architecture}/{channel}"


def index_target(name: str, channel: str) -> str:
    """Return the target path of the list of a channel's versions."""
    return f"{folder(name, channel)}/releases.json"


def release_target(name: str, channel: str, version: str) -> str:
    """Return the target path of a release's description."""
    return f"{folder(name, channel)}/{version}/release.json"


def encode_release(release: Release) -> bytes:
    """Return the description as canonical JSON."""
    return json.dumps({"format": FORMAT, **asdict(release)}, sort_keys=True, separators=(",", ":")).encode()


def encode_index(versions: tuple[str, ...]) -> bytes:
    """Return the list of a channel's versions as canonical JSON."""
    return json.dumps({"format": FORMAT, "versions": versions}, sort_keys=True, separators=(",", ":")).encode()


def _text(document: dict[str, object], key: str, pattern: re.Pattern[str] | None = None) -> str:
    value = document[key]
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError(key)
    return value


def _count(document: dict[str, object], key: str, low: int, high: int, step: int = 1) -> int:
    value = document[key]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high or value % step:
        raise ValueError(key)
    return value


def _list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("versions")
    return value


def _payload(document: dict[str, object], key: str, prefix: str) -> Payload:
    value = document[key]
    if not isinstance(value, dict) or set(value) != {"target", "bytes", "sha256"}:
        raise ValueError(key)
    target = _text(value, "target")
    if not target.startswith(prefix) or "/" in target[len(prefix) :]:
        raise ValueError(f"{key}.target")
    return Payload(target=target, bytes=_count(value, "bytes", 1, 1 << 36), sha256=_text(value, "sha256", _HASH))


def _object(data: bytes, keys: set[str]) -> dict[str, object]:
    if len(data) > MAX_DESCRIPTION:
        raise ValueError("too long")
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("format")
    if set(document) != keys | {"format"}:
        raise ValueError(f"keys {sorted(set(document) ^ (keys | {'format'}))}")
    return document


def decode_release(data: bytes) -> Release:
    """Read a release's description.

    Raises:
        DescriptionError: it is malformed, too long, or has unknown or missing keys.
    """
    try:
        document = _object(data, set(Release.__dataclass_fields__))
        name = str(Name.parse(_text(document, "name")))
        version = str(ReleaseVersion.parse(_text(document, "version")))
        channel = str(Name.parse(_text(document, "channel")))
        prefix = f"{folder(name, channel)}/{version}/"
        return Release(
            name=name,
            version=version,
            architecture=_text(document, "architecture", re.compile(ARCHITECTURE)),
            channel=channel,
            root_hash=_text(document, "root_hash", _HASH),
            root_bytes=_count(document, "root_bytes", BLOCK, 1 << 36, BLOCK),
            salt=_text(document, "salt", _HASH),
            uuid=_text(document, "uuid", _UUID),
            tries=_count(document, "tries", 1, 9),
            root=_payload(document, "root", prefix),
            signature=_payload(document, "signature", prefix),
            uki=_payload(document, "uki", prefix),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DescriptionError("a release's description is malformed", details=str(error)) from error


def decode_index(data: bytes) -> tuple[str, ...]:
    """Read the list of a channel's versions.

    Raises:
        DescriptionError: it is malformed.
    """
    try:
        listed = _list(_object(data, {"versions"})["versions"])
        return tuple(str(ReleaseVersion.parse(version)) for version in listed)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DescriptionError("a channel's list of releases is malformed", details=str(error)) from error
