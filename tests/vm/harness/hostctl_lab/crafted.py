"""Hostile images: one layer of given tar entries, with a given configuration, as an OCI layout that skopeo copies."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crafted:
    """An image that lies on top of busybox."""

    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links by path, without the leading slash."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    """Executable files by path."""
    config: Mapping[str, object] = field(default_factory=dict)
    """The image's ``config``, over an entrypoint that sleeps."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the manifest."""


def _layer(image: Crafted, busybox: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, target in image.links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        files = {"bin/busybox": busybox, **{path: text.encode() for path, text in image.scripts.items()}}
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = 0o755, len(data)
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def program_of(archive: Path, path: str) -> bytes:
    """Return a file of the only layer of an image that `hostctl image build` made."""
    with tarfile.open(archive) as outer:
        read = {member.name: outer.extractfile(member) for member in outer if member.isreg()}
        blobs = {name: file.read() for name, file in read.items() if file is not None}
    index = json.loads(blobs["index.json"])

    def blob(descriptor: Mapping[str, str]) -> bytes:
        return blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"]

    layer = blob(json.loads(blob(index["manifests"][0]))["layers"][0])
    plain = zstandard.ZstdDecompressor().stream_reader(layer).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        found = next(member for member in tar if member.name.removeprefix("./") == path)
        file = tar.extractfile(found)
        assert file is not None
        return file.read()


def craft(image: Crafted, busybox: bytes, folder: Path) -> Path:
    """Write the image and return the layout's folder.

    Args:
        image: what is in it.
        busybox: the program that it can run, linked statically.
        folder: an empty one that is made.
    """
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def document(value: object, kind: str) -> dict[str, object]:
        return put(json.dumps(value).encode(), kind)

    layer = put(_layer(image, busybox), LAYER)
    entrypoint: Sequence[str] = ("/bin/busybox", "sleep", "1000000")
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Entrypoint": entrypoint, **image.config},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": document(config, CONFIG),
        "layers": [layer],
        "annotations": dict(image.annotations),
    }
    index = {"schemaVersion": 2, "manifests": [document(manifest, MANIFEST)]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder
