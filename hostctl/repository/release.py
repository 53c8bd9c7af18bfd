"""What a repository says of releases: descriptions, deltas, offers; each lies behind a signed TUF target.

Pure: decoding is strict and bounded, whoever signed it. Nothing here downloads. Files are named by their content and
shared between channels, so a release is described by the same bytes in every channel that offers it.

Hosts are older than what publishes for them. Keys that a host does not know are passed over, so that new ones can be
added; what it must not pass over comes with another ``format``, or limits the offer by its ``minimum``. A rollout is
the exception: a limit that is not understood would be none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar

from hostctl.config.values import Name, ReleaseVersion
from hostctl.errors import HostctlError
from hostctl.repository.rollout import Rollout

FORMAT = 2
ARCHITECTURE = "x86-64"
BLOCK = 4096  # of the hash tree
MAX_DESCRIPTION = 1 << 16
MAX_INDEX = 1 << 18
MAX_SIGNATURE = 1 << 16
MAX_FILE = 1 << 36
MAX_VERSIONS = 1000
MAX_DELTAS = 64
_HASH = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

Decoded = TypeVar("Decoded")


class DescriptionError(HostctlError):
    """Something that the repository says of releases is not well formed."""

    id = "release-description"


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """One file of a repository, named by its content."""

    bytes: int
    sha256: str

    @property
    def path(self) -> str:
        """Return where it lies below the repository's base."""
        return f"payloads/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What a host must know to install a release. It never changes once published."""

    name: str
    version: str
    architecture: str
    root_hash: str
    root_bytes: int
    """Size of the root, a multiple of :data:`BLOCK`."""
    salt: str
    """Salt of the hash tree, hexadecimal."""
    uuid: str
    """UUID in the hash tree's superblock."""
    tries: int
    """How often it may be booted before it is given up."""
    uki_bytes: int
    """Size of the unified kernel image."""
    uki_sha256: str
    index: Payload
    """The full payload's index."""
    segments: Payload
    """The full payload's segments."""
    signature: Payload
    """The content of the signature partition."""

    @property
    def title(self) -> str:
        """Return ``NAME_VERSION``."""
        return f"{self.name}_{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A payload that makes a release out of another one, which the host must have whole."""

    from_version: str
    from_root_hash: str
    from_uki_sha256: str
    index: Payload
    segments: Payload


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A release of a channel as its list shows it: who may take it, and when."""

    name: str
    architecture: str
    version: str
    minimum: str | None = None
    """Oldest version that may update to it; none if any may."""
    rollout: Rollout | None = None
    """None if all hosts may take it at once."""


def folder(name: str, channel: str, architecture: str = ARCHITECTURE) -> str:
    """Return the target path below which the releases of a channel lie."""
    return f"{name}/{architecture}/{channel}"


def versions_target(name: str, channel: str) -> str:
    """Return the target path of the list of a channel's versions."""
    return f"{folder(name, channel)}/releases.json"


def release_target(name: str, channel: str, version: str) -> str:
    """Return the target path of a release's description."""
    return f"{folder(name, channel)}/{version}/release.json"


def deltas_target(name: str, channel: str, version: str) -> str:
    """Return the target path of the list of a release's deltas."""
    return f"{folder(name, channel)}/{version}/deltas.json"


def _canonical(document: Mapping[str, object]) -> bytes:
    return json.dumps({"format": FORMAT, **document}, sort_keys=True, separators=(",", ":")).encode()


def encode_release(release: Release) -> bytes:
    """Return the description as canonical JSON."""
    return _canonical(asdict(release))


def encode_versions(versions: Sequence[str]) -> bytes:
    """Return the list of a channel's versions as canonical JSON."""
    return _canonical({"versions": list(versions)})


def encode_deltas(deltas: Sequence[Delta]) -> bytes:
    """Return the list of a release's deltas as canonical JSON."""
    return _canonical({"deltas": [asdict(delta) for delta in deltas]})


def encode_offer(offer: Offer) -> dict[str, object]:
    """Return the offer as ``custom`` of a TUF target holds it."""
    rollout = offer.rollout
    shown = None
    if rollout is not None:
        start = rollout.start.astimezone(UTC).strftime(_TIME_FORMAT)
        shown = {"start": start, "hours": _decimal(rollout.hours), "percent": _decimal(rollout.percent)}
    return {
        "name": offer.name,
        "architecture": offer.architecture,
        "version": offer.version,
        "minimum": offer.minimum,
        "rollout": shown,
    }


def _decimal(number: float) -> str:
    """Return a number as text: the canonical JSON that TUF signs has no fractions."""
    text = f"{number:.6f}"
    return text.rstrip("0").rstrip(".")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice")
    return document


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _document(data: bytes, keys: set[str]) -> dict[str, object]:
    if len(data) > MAX_DESCRIPTION:
        raise ValueError("too long")
    document = _record(json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant), {*keys, "format"})
    if type(document["format"]) is not int or document["format"] != FORMAT:
        raise ValueError("format")
    return document


def _record(value: object, keys: set[str], *, exact: bool = False) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    wrong = set(value) ^ keys if exact else keys - set(value)
    if wrong:
        raise ValueError(f"keys {sorted(map(str, wrong))[:8]}")
    return value


def _text(document: Mapping[str, object], key: str, pattern: re.Pattern[str] | None = None) -> str:
    value = document[key]
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError(key)
    return value


def _count(document: Mapping[str, object], key: str, low: int, high: int, step: int = 1) -> int:
    value = document[key]
    if type(value) is not int or not low <= value <= high or value % step:
        raise ValueError(key)
    return value


def _number(document: Mapping[str, object], key: str, high: float) -> float:
    value = float(_text(document, key, _DECIMAL))
    if value > high:
        raise ValueError(key)
    return value


def _items(document: Mapping[str, object], key: str, most: int) -> list[object]:
    value = document[key]
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(key)
    return value


def _name(document: Mapping[str, object], key: str) -> str:
    return str(Name.parse(_text(document, key)))


def _version(document: Mapping[str, object], key: str) -> str:
    return str(ReleaseVersion.parse(_text(document, key)))


def _architecture(document: Mapping[str, object]) -> str:
    return _text(document, "architecture", re.compile(ARCHITECTURE))


def _payload(document: Mapping[str, object], key: str, low: int, high: int) -> Payload:
    value = _record(document[key], {"bytes", "sha256"})
    return Payload(bytes=_count(value, "bytes", low, high), sha256=_text(value, "sha256", _HASH))


def _decoded(what: str, action: Callable[[], Decoded]) -> Decoded:
    try:
        return action()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DescriptionError(f"{what} is malformed", details=str(error)[:200]) from error


def decode_release(data: bytes) -> Release:
    """Read a release's description.

    Raises:
        DescriptionError: it is malformed, too long, of another format, or lacks a key.
    """
    return _decoded("a release's description", lambda: _release(_document(data, set(Release.__dataclass_fields__))))


def _release(document: Mapping[str, object]) -> Release:
    return Release(
        name=_name(document, "name"),
        version=_version(document, "version"),
        architecture=_architecture(document),
        root_hash=_text(document, "root_hash", _HASH),
        root_bytes=_count(document, "root_bytes", BLOCK, MAX_FILE, BLOCK),
        salt=_text(document, "salt", _HASH),
        uuid=_text(document, "uuid", _UUID),
        tries=_count(document, "tries", 1, 9),
        uki_bytes=_count(document, "uki_bytes", 1, MAX_FILE),
        uki_sha256=_text(document, "uki_sha256", _HASH),
        index=_payload(document, "index", 1, MAX_INDEX),
        segments=_payload(document, "segments", 1, MAX_FILE),
        signature=_payload(document, "signature", 1, MAX_SIGNATURE),
    )


def decode_versions(data: bytes) -> tuple[str, ...]:
    """Read the list of a channel's versions.

    Raises:
        DescriptionError: it is malformed.
    """

    def read() -> tuple[str, ...]:
        listed = _items(_document(data, {"versions"}), "versions", MAX_VERSIONS)
        versions = tuple(_version({"version": item}, "version") for item in listed)
        if len(set(versions)) != len(versions):
            raise ValueError("a version is there twice")
        return versions

    return _decoded("a channel's list of releases", read)


def decode_deltas(data: bytes) -> tuple[Delta, ...]:
    """Read the list of a release's deltas.

    Raises:
        DescriptionError: it is malformed, or two deltas start from the same root.
    """

    def read() -> tuple[Delta, ...]:
        deltas = tuple(map(_delta, _items(_document(data, {"deltas"}), "deltas", MAX_DELTAS)))
        if len({delta.from_root_hash for delta in deltas}) != len(deltas):
            raise ValueError("two deltas start from the same root")
        return deltas

    return _decoded("a release's list of deltas", read)


def _delta(value: object) -> Delta:
    document = _record(value, set(Delta.__dataclass_fields__))
    return Delta(
        from_version=_version(document, "from_version"),
        from_root_hash=_text(document, "from_root_hash", _HASH),
        from_uki_sha256=_text(document, "from_uki_sha256", _HASH),
        index=_payload(document, "index", 1, MAX_INDEX),
        # All of a release may be copied out of another one.
        segments=_payload(document, "segments", 0, MAX_FILE),
    )


def decode_offer(custom: object) -> Offer:
    """Read an offer from ``custom`` of a TUF target.

    Raises:
        DescriptionError: it is malformed.
    """
    return _decoded("an offer of a release", lambda: _offer(_record(custom, set(Offer.__dataclass_fields__))))


def _offer(document: Mapping[str, object]) -> Offer:
    return Offer(
        name=_name(document, "name"),
        architecture=_architecture(document),
        version=_version(document, "version"),
        minimum=None if document["minimum"] is None else _version(document, "minimum"),
        rollout=None if document["rollout"] is None else _rollout(document["rollout"]),
    )


def _rollout(value: object) -> Rollout:
    document = _record(value, set(Rollout.__dataclass_fields__), exact=True)
    start = datetime.strptime(_text(document, "start", _TIME), _TIME_FORMAT).replace(tzinfo=UTC)
    return Rollout(start=start, hours=_number(document, "hours", 24.0 * 365), percent=_number(document, "percent", 100))
