"""OCI manifests, indexes and configurations, read strictly from bytes that nobody has vouched for yet.

Everything is bounded before it is parsed. A document that means two things (an index and a manifest at once, a key
twice) is refused, because two programs would see two images in it. Nothing here touches a disk or a network.
Formats: https://github.com/opencontainers/image-spec v1.1, manifest.md, image-index.md and config.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.tarstream import PATH_BYTES

MANIFEST_BYTES = 4 << 20  # the limit that the distribution specification asks registries to accept
CONFIG_BYTES = 4 << 20
LAYERS = 127  # Docker's own limit on the layers of an image
WORDS = 1024
IMAGES = 64  # of one archive
WORD_BYTES = 32 << 10
LAYER_BYTES = 16 << 30

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
Compression = Literal["none", "gzip", "zstd"]
LAYER_TYPES: dict[str, Compression] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
PLATFORM = ("linux", "amd64")
VARIANTS = ("", "v1", "v2", "v3")
"""Levels of amd64, the one that runs anywhere first; v4 is left out, as no machine says here what it can."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageFormatError(HostctlError):
    """An image's manifest or configuration is malformed or beyond a limit."""

    id = "image-format"


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """Points at a blob: its type, digest ``sha256:…`` and size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One image for one platform: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """What an image says of how it wants to be run, and the digests of its uncompressed layers."""

    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = "/"
    stop_signal: str = "SIGTERM"
    exposed: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """An image of an archive: the digest of its manifest or index, and its names."""

    digest: str
    names: tuple[ImageReference, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """An image as ``docker save`` describes it: members of the archive, and its names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[ImageReference, ...] = ()


def digest_of(data: bytes) -> str:
    """Return the digest ``sha256:…`` of ``data``."""
    return f"sha256:{sha256(data).hexdigest()}"


def verified(data: bytes, digest: str) -> bytes:
    """Return ``data`` if it has ``digest``.

    Raises:
        ImageFormatError: it has another one.
    """
    if digest_of(data) != digest:
        raise ImageFormatError("a document of the image is not what its digest says", details=f"wanted {digest}")
    return data


def check_digest(value: object) -> str:
    """Return ``value`` if it is a digest ``sha256:…``, the only algorithm in use; else raise ImageFormatError."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ImageFormatError(f"{value!r} is not a sha256 digest")
    return value


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ImageFormatError("a document of the image has a key twice")
    return found


def _document(data: bytes, limit: int, what: str) -> dict[str, object]:
    if len(data) > limit:
        raise ImageFormatError(f"the image's {what} has {len(data)} bytes, more than {limit}")
    try:
        value = json.loads(data, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise ImageFormatError(f"the image's {what} is not JSON", details=str(error)) from error
    return _mapping(value, what)


def _mapping(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ImageFormatError(f"the image's {what} is no object")
    return value


def _list(value: object, what: str, limit: int) -> list[object]:
    if not isinstance(value, list) or len(value) > limit:
        raise ImageFormatError(f"the image's {what} is no list of at most {limit} entries")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > WORD_BYTES or not _can_be_written(value):
        raise ImageFormatError(f"the image's {what} is no text of at most {WORD_BYTES} characters")
    return value


def _can_be_written(text: str) -> bool:
    """Tell whether a text of JSON is one: half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(value: object, what: str) -> tuple[str, ...]:
    entries: Iterable[object] = _list(value, what, WORDS) if value is not None else ()
    return tuple(_text(entry, what) for entry in entries)


def _descriptor(value: object, what: str, limit: int) -> Descriptor:
    found = _mapping(value, what)
    size = found.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= limit:
        raise ImageFormatError(f"the image's {what} has no size from 0 to {limit}")
    return Descriptor(
        media_type=_text(found.get("mediaType"), f"{what} type"), digest=check_digest(found.get("digest")), size=size
    )


def is_index(data: bytes) -> bool:
    """Tell whether a document is an index; one that is also a manifest is refused."""
    found = _document(data, MANIFEST_BYTES, "manifest")
    if ("manifests" in found) == ("layers" in found):
        raise ImageFormatError("the image's manifest needs either `layers` or `manifests`")
    return "manifests" in found


def parse_index(data: bytes) -> Descriptor:
    """Return the descriptor of the linux/amd64 manifest of an index; an index inside an index is refused.

    Raises:
        ImageFormatError: the index is malformed, or has no image for this platform.
    """
    found = _document(data, MANIFEST_BYTES, "index")
    if not is_index(data) or found.get("mediaType", INDEX_TYPES[0]) not in INDEX_TYPES:
        raise ImageFormatError("the image's index has another type than its content")
    entries = [_mapping(entry, "index entry") for entry in _list(found["manifests"], "index", WORDS)]
    platforms = [_platform(entry) for entry in entries]
    fitting = [
        (VARIANTS.index(platform[2]), at)
        for at, platform in enumerate(platforms)
        if platform[:2] == PLATFORM and platform[2] in VARIANTS
    ]
    if not fitting:
        known = sorted({"/".join(part for part in each if part) for each in platforms if each[0] != "unknown"})
        raise ImageFormatError("the image is not made for linux/amd64", details=f"it is for {', '.join(known[:20])}")
    descriptor = _descriptor(entries[min(fitting)[1]], "index entry", MANIFEST_BYTES)
    if descriptor.media_type not in MANIFEST_TYPES:
        raise ImageFormatError(f"the image's index points at a {descriptor.media_type}, not at a manifest")
    return descriptor


def _platform(entry: dict[str, object]) -> tuple[str, str, str]:
    """Return operating system, architecture and variant of an index's entry, each empty when it says none."""
    found = _mapping(entry.get("platform") or {}, "platform")
    system, architecture, variant = (_text(found.get(key, ""), key) for key in ("os", "architecture", "variant"))
    return system, architecture, variant


def parse_single(data: bytes) -> Descriptor:
    """Return the one entry of an OCI layout's ``index.json``, which may be a manifest or an index.

    Raises:
        ImageFormatError: it is malformed, or has no or several images.
    """
    if not is_index(data):
        raise ImageFormatError("the layout's index.json is no index")
    entries = _list(_document(data, MANIFEST_BYTES, "index")["manifests"], "index", WORDS)
    if len(entries) != 1:
        raise ImageFormatError(f"the layout has {len(entries)} images, not one")
    descriptor = _descriptor(entries[0], "index entry", MANIFEST_BYTES)
    if descriptor.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
        raise ImageFormatError(f"the layout has a {descriptor.media_type}, not an image")
    return descriptor


def _references(values: Iterable[object]) -> tuple[ImageReference, ...]:
    """Return the names that are whole references; others say nothing, a tag alone for example.

    Nor does one with a digest: that of an index would be believed.
    """
    found = []
    for value in values:
        try:
            found.append(ImageReference(value if isinstance(value, str) else ""))
        except ValueError:
            continue
    return tuple(reference for reference in found if not reference.digest)


def parse_entries(data: bytes) -> tuple[Named, ...]:
    """Return the entries of an archive's ``index.json`` with the names that their annotations give them.

    ``io.containerd.image.name`` is a whole name; ``org.opencontainers.image.ref.name`` is one if it has a registry or
    a tag, else a tag alone (annotations.md, and what Docker 25 and skopeo write).

    Raises:
        ImageFormatError: it is malformed or has no image.
    """
    if not is_index(data):
        raise ImageFormatError("the archive's index.json is no index")
    images = []
    for entry in _list(_document(data, MANIFEST_BYTES, "index")["manifests"], "index", IMAGES):
        notes = _mapping(_mapping(entry, "index entry").get("annotations") or {}, "annotations")
        short = notes.get("org.opencontainers.image.ref.name")
        whole = [notes.get("io.containerd.image.name"), short if isinstance(short, str) and ":" in short else None]
        descriptor = _descriptor(entry, "index entry", MANIFEST_BYTES)
        if descriptor.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
            images.append(Named(digest=descriptor.digest, names=_references(each for each in whole if each)[:1]))
    if not images:
        raise ImageFormatError("the archive has no image")
    return tuple(images)


def parse_saved(data: bytes) -> tuple[Saved, ...]:
    """Return the images of the ``manifest.json`` that ``docker save`` writes.

    Raises:
        ImageFormatError: it is malformed or has no image.
    """
    try:
        value = json.loads(data, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise ImageFormatError("the archive's manifest.json is not JSON", details=str(error)) from error
    images = []
    for entry in _list(value, "manifest.json", IMAGES):
        fields = _mapping(entry, "manifest.json")
        layers = tuple(_text(name, "layer") for name in _list(fields.get("Layers"), "layers", LAYERS))
        tags = _list(fields.get("RepoTags") or [], "names", IMAGES)
        images.append(Saved(config=_text(fields.get("Config"), "config"), layers=layers, names=_references(tags)))
    if not images:
        raise ImageFormatError("the archive has no image")
    return tuple(images)


def parse_manifest(data: bytes) -> Manifest:
    """Return a manifest.

    Raises:
        ImageFormatError: it is malformed, has too many layers or a layer of an unknown type.
    """
    found = _document(data, MANIFEST_BYTES, "manifest")
    if is_index(data) or found.get("mediaType", MANIFEST_TYPES[0]) not in MANIFEST_TYPES:
        raise ImageFormatError("the image's manifest has another type than its content")
    if found.get("schemaVersion") != 2:
        raise ImageFormatError("the image's manifest is not of schema version 2")
    entries = _list(found["layers"], "layers", LAYERS)
    layers = tuple(_descriptor(entry, "layer", LAYER_BYTES) for entry in entries)
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise ImageFormatError(f"the image has a layer of the unknown type {layer.media_type!r}")
    return Manifest(config=_descriptor(found.get("config"), "configuration", CONFIG_BYTES), layers=layers)


def manifest_type(data: bytes) -> str:
    """Return the media type of a manifest that :func:`parse_manifest` takes; OCI's own when it says none."""
    return _text(_document(data, MANIFEST_BYTES, "manifest").get("mediaType", MANIFEST_TYPES[0]), "type")


def parse_config(data: bytes) -> ImageConfig:
    """Return an image's configuration.

    Raises:
        ImageFormatError: it is malformed, beyond a limit, or for another platform.
    """
    found = _document(data, CONFIG_BYTES, "configuration")
    if (found.get("os"), found.get("architecture")) != ("linux", "amd64"):
        raise ImageFormatError("the image is not made for linux/amd64")
    rootfs = _mapping(found.get("rootfs"), "rootfs")
    config = _mapping(found.get("config") or {}, "config")
    env = _words(config.get("Env"), "environment")
    if any("=" not in entry or entry.startswith("=") for entry in env):
        raise ImageFormatError("the image's environment has an entry that is not NAME=value")
    working_dir = _text(config.get("WorkingDir") or "/", "working directory")
    if not working_dir.startswith("/") or ".." in working_dir.split("/"):
        raise ImageFormatError(f"the image's working directory {working_dir[:200]!r} is not absolute")
    if len(working_dir.encode()) >= PATH_BYTES:
        raise ImageFormatError(f"the image's working directory has {PATH_BYTES} bytes or more")
    return ImageConfig(
        diff_ids=tuple(check_digest(entry) for entry in _list(rootfs.get("diff_ids"), "diff_ids", LAYERS)),
        entrypoint=_words(config.get("Entrypoint"), "entrypoint"),
        cmd=_words(config.get("Cmd"), "command"),
        env=env,
        user=_text(config.get("User") or "", "user"),
        working_dir=working_dir,
        stop_signal=_text(config.get("StopSignal") or "SIGTERM", "stop signal"),
        exposed=tuple(sorted(_text(port, "port") for port in _mapping(config.get("ExposedPorts") or {}, "ports"))),
    )
