"""An image of another one and one layer more, as ``docker commit`` makes it.

The configuration is the base's: what a declaration adds to that, variables for example, may be a secret and stays where
it is. Nothing in it is of the day, so the same base, layer and words give the same image.
Format: https://github.com/opencontainers/image-spec v1.1, config.md, "history".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl.errors import UsageError
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.oci import LAYER_TYPES, LAYERS, Descriptor, ImageFormatError, Manifest, digest_of, parse_manifest
from hostctl.image.store import ImageStore, StoredImage

TEXT = 1024  # letters of a message or an author
CREATED_BY = "hostctl commit"
LAST_TIME = 253402300799  # of a year with four digits
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What somebody says of an image that is made."""

    message: str = ""
    author: str = ""

    def __post_init__(self) -> None:
        """Refuse a text that no image should have."""
        for name, text in (("message", self.message), ("author", self.author)):
            if len(text) > TEXT or not text.replace("\n", "").isprintable():
                raise UsageError(f"--{name}: at most {TEXT} printable letters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The layer that is added: an uncompressed tar; ``changed`` is the latest time in it, seconds since 1970."""

    path: Path
    diff_id: str
    size: int
    changed: int


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(min(max(0, seconds), LAST_TIME), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def configuration(base: bytes, layer: Layer | None, words: Words) -> bytes:
    """Return the configuration of an image with one layer more; none leaves the layers as they are.

    Args:
        base: the configuration of the image below, as :func:`hostctl.image.oci.parse_config` takes it.
        layer: what is added.
        words: what is said of it.
    """
    document = json.loads(base)
    before = str(document.get("created") or _time(0))
    created = before if layer is None else _time(layer.changed)
    diff_ids = [*document["rootfs"]["diff_ids"], *([] if layer is None else [layer.diff_id])]
    history = document.get("history")
    if not isinstance(history, list):  # one that says nothing, or the new step would be taken for the first layer's
        history = [{} for _ in document["rootfs"]["diff_ids"]]
    step: dict[str, object] = {"created": created, "created_by": CREATED_BY}
    step |= {"comment": words.message} if words.message else {}
    step |= {"author": words.author} if words.author else {}
    step |= {"empty_layer": True} if layer is None else {}
    made = {
        **document,
        "created": created,
        "rootfs": {**document["rootfs"], "diff_ids": diff_ids},
        "history": [*history, step],
        **({"author": words.author} if words.author else {}),
    }
    return _json(made)


def manifest(base: Manifest, config: bytes, layer: Layer | None) -> bytes:
    """Return the manifest: the base's layers, by the types of OCI, and the new one.

    Raises:
        ImageFormatError: it would have more layers than an image may have.
    """

    def descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
        return {"mediaType": kind, "digest": digest, "size": size}

    layers = [descriptor(_oci_type(each), each.digest, each.size) for each in base.layers]
    if layer is not None:
        layers.append(descriptor(f"{_OCI}.layer.v1.tar", layer.diff_id, layer.size))
    if len(layers) > LAYERS:
        raise ImageFormatError(f"the image would have more than {LAYERS} layers")
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": descriptor(f"{_OCI}.config.v1+json", digest_of(config), len(config)),
            "layers": layers,
        }
    )


def _oci_type(layer: Descriptor) -> str:
    kind = LAYER_TYPES[layer.media_type]
    return f"{_OCI}.layer.v1.tar" if kind == "none" else f"{_OCI}.layer.v1.tar+{kind}"


def commit(
    store: ImageStore,
    base: StoredImage,
    layer: Layer | None,
    name: str | None,
    words: Words,
    folder: Path,
    *,
    make: MakeErofs = make_erofs,
) -> StoredImage:
    """Bring an image of another one and one layer more into the store.

    Args:
        store: one with a writable folder, which has the base; the caller holds the lock.
        base: the image below.
        layer: what is added; none makes an image that differs by what is said of it.
        name: the reference to remember it under, if any.
        words: what is said of it.
        folder: an empty one in the store's file system.
        make: see :func:`hostctl.image.layers.convert`.

    Raises:
        ImageFormatError, LayerError: it would be no sound image.
        NoRoomError: it does not fit.
    """
    below, config_below = store.documents(base.digest)
    config = configuration(config_below, layer, words)
    document = manifest(parse_manifest(below), config, layer)
    store.make_room(0 if layer is None else layer.size)
    store.adopt(base)  # it outlives the release that the base came with
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for data in (config, document):
        (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    if layer is not None:
        (blobs / layer.diff_id.removeprefix("sha256:")).hardlink_to(layer.path)
    return store.add(folder, digest_of(document), name, make=make)
