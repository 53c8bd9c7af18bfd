"""Writes images out of the store: archives that both OCI tools and Docker read, and pushes to a registry.

Layers are the very tars that the image came with, uncompressed in an archive and compressed by skopeo on their way to a
registry: so the image keeps its id, while the digest of its manifest may be another. Formats as in
:mod:`hostctl.image.archive`; an archive is what Docker writes since version 25.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hostctl.config.values import ImageReference
from hostctl.image.oci import digest_of
from hostctl.image.rebuild import rebuild
from hostctl.image.recipe import RecipeError, tar_size
from hostctl.image.refusal import refusal
from hostctl.image.registry import DIRECT, SKOPEO, Access, Skopeo, session
from hostctl.image.store import ImageStore, StoredImage
from hostctl.image.tarstream import padded
from hostctl.run import CommandError

_OCI = "application/vnd.oci.image"
PUSH_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    """A small file of an archive."""

    kind: str
    data: bytes

    @property
    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.kind, "digest": digest_of(self.data), "size": len(self.data)}

    @property
    def path(self) -> str:
        return f"blobs/sha256/{digest_of(self.data).removeprefix('sha256:')}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _recipe(layer: Path) -> Path:
    recipe = layer.with_suffix(".recipe")
    if not recipe.is_file():
        hint = "what came with a release cannot be written out: take the image from where the release has it"
        raise RecipeError(f"there is no recipe of {layer.stem}", hint=hint)
    return recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    """An image as an archive holds it: documents, and layers by diffID with the files that they are made of."""

    config: _Document
    manifest: _Document
    layers: dict[str, Path]
    diff_ids: tuple[str, ...]


def _prepare(store: ImageStore, image: StoredImage) -> _Image:
    config = _Document(kind=f"{_OCI}.config.v1+json", data=store.documents(image.digest)[1])
    layers = dict(zip(image.config.diff_ids, image.layers, strict=True))
    sizes = {diff_id: tar_size(_recipe(path)) for diff_id, path in layers.items()}
    kind = f"{_OCI}.layer.v1.tar"
    entries = [{"mediaType": kind, "digest": each, "size": sizes[each]} for each in image.config.diff_ids]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": config.descriptor,
        "layers": entries,
    }
    document = _Document(kind=f"{_OCI}.manifest.v1+json", data=_json(manifest))
    return _Image(config=config, manifest=document, layers=layers, diff_ids=image.config.diff_ids)


def _index(images: Sequence[tuple[_Image, Sequence[str]]]) -> bytes:
    entries = []
    for image, names in images:
        for name in names or ("",):
            tag = ImageReference(name).tag or "" if name else ""
            notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
            entries.append({**image.manifest.descriptor, **({"annotations": notes} if name else {})})
    return _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": entries})


def _saved(images: Sequence[tuple[_Image, Sequence[str]]]) -> bytes:
    return _json(
        [
            {
                "Config": image.config.path,
                "RepoTags": [_short(name) for name in names] or None,
                "Layers": [f"blobs/sha256/{diff_id.removeprefix('sha256:')}" for diff_id in image.diff_ids],
            }
            for image, names in images
        ]
    )


def _short(name: str) -> str:
    """Return a name as Docker writes it."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _parts(images: Sequence[tuple[_Image, Sequence[str]]]) -> Iterator[tuple[str, bytes]]:
    yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
    yield "index.json", _index(images)
    yield "manifest.json", _saved(images)
    yield from {each.path: each.data for image, _ in images for each in (image.config, image.manifest)}.items()


def save_stream(store: ImageStore, images: Sequence[tuple[StoredImage, Sequence[str]]], file: IO[bytes]) -> None:
    """Write an archive of images with their names.

    Args:
        store: where they are.
        images: each with the names that the archive gives it.
        file: takes the archive; a pipe will do.

    Raises:
        RecipeError: a layer cannot be made again. What was written is then no whole archive.
    """
    prepared = [(_prepare(store, image), names) for image, names in images]
    for name, data in _parts(prepared):
        _member(file, name, len(data))
        file.write(data + bytes(padded(len(data)) - len(data)))
    layers = {diff_id: path for image, _ in prepared for diff_id, path in image.layers.items()}
    for diff_id, path in layers.items():
        size = tar_size(_recipe(path))
        _member(file, f"blobs/sha256/{diff_id.removeprefix('sha256:')}", size)
        rebuild(path, _recipe(path), diff_id, file.write)
        file.write(bytes(padded(size) - size))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.flush()


def _member(file: IO[bytes], name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    file.write(info.tobuf(tarfile.PAX_FORMAT))


def _write_layout(store: ImageStore, image: StoredImage, layout: Path) -> None:
    (layout / "blobs/sha256").mkdir(parents=True)
    prepared = _prepare(store, image)
    for name, data in _parts([(prepared, ())]):
        (layout / name).write_bytes(data)
    for diff_id, path in prepared.layers.items():
        with (layout / "blobs/sha256" / diff_id.removeprefix("sha256:")).open("wb") as file:
            rebuild(path, _recipe(path), diff_id, file.write)


def push(
    store: ImageStore,
    image: StoredImage,
    target: ImageReference,
    *,
    access: Access = DIRECT,
    skopeo: Skopeo = SKOPEO,
    notify: Callable[[str], None] = lambda text: None,
) -> str:
    """Bring an image to a registry under a name, and return the digest of its manifest there.

    Args:
        store: one with a writable folder; the caller holds the lock.
        image: the image.
        target: a name with a tag.
        access: how the registry is reached; mirrors are not asked.
        skopeo: the program.
        notify: told what is being done.

    Raises:
        PullError: the registry does not take it.
        RecipeError: a layer cannot be made again.
    """
    with tempfile.TemporaryDirectory(dir=store.clean()) as folder, session(target.registry, access, skopeo) as opened:
        notify(f"making the layers of {target}")
        _write_layout(store, image, Path(folder, "layout"))
        notify(f"pushing {target}")
        digest = opened.folder / "digest"
        words = ["--quiet", "--digestfile", str(digest), f"oci:{folder}/layout"]
        try:
            opened.run(
                "copy", *words, f"docker://{target.registry}/{target.repository}:{target.tag}", timeout=PUSH_SECONDS
            )
        except CommandError as error:
            raise refusal(f"pushing {target}", target.registry, error) from error
        return digest.read_text().strip()
