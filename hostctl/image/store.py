"""The image store: EROFS layers by diffID, manifests and configurations by digest, and a table of names.

Two folders of one layout: ``writable`` takes pulls, ``baked`` came with the release inside the verified root. An
image counts as there only when its manifest, configuration and every layer are; the manifest is written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl.config.values import ImageReference
from hostctl.durable import sync_directory, write_file
from hostctl.errors import HostctlError
from hostctl.image.layers import MakeErofs, convert, make_erofs
from hostctl.image.oci import ImageConfig, ImageFormatError, check_digest, parse_config, parse_manifest, verified


class ImageStoreError(HostctlError):
    """The image store cannot do what is asked of it."""

    id = "image-store"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image that is ready to run; ``layers`` are EROFS files, lowest first, ``bytes`` their size together."""

    reference: str
    digest: str
    config: ImageConfig
    layers: tuple[Path, ...]
    bytes: int


def _file(root: Path, kind: str, digest: str) -> Path:
    suffix = "erofs" if kind == "layers" else "json"
    return root / kind / f"{check_digest(digest).replace(':', '-')}.{suffix}"


def _names(root: Path) -> dict[str, str]:
    try:
        found = json.loads((root / "names.json").read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ImageStoreError(f"{root / 'names.json'} is damaged", details=str(error)) from error
    if not isinstance(found, dict):
        raise ImageStoreError(f"{root / 'names.json'} is damaged")
    return {str(name): check_digest(digest) for name, digest in found.items()}


class ImageStore:
    """Finds images in the writable and the baked folder, and adds to the writable one."""

    def __init__(self, writable: Path | None, baked: Path | None = None) -> None:
        self.writable = writable
        self.baked = baked

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(root for root in (self.baked, self.writable) if root is not None)

    def _layer(self, diff_id: str) -> Path | None:
        paths = (_file(root, "layers", diff_id) for root in self._roots)
        return next((path for path in paths if path.is_file()), None)

    def get(self, digest: str) -> StoredImage | None:
        """Return the image with a manifest digest, or none if any part of it is missing.

        Raises:
            ImageFormatError: what is stored is not what its digest says.
        """
        for root in self._roots:
            try:
                manifest = verified(_file(root, "manifests", digest).read_bytes(), digest)
                wanted = parse_manifest(manifest).config.digest
                config = parse_config(verified(_file(root, "configs", wanted).read_bytes(), wanted))
            except FileNotFoundError:
                continue
            layers = [path for diff_id in config.diff_ids if (path := self._layer(diff_id))]
            if len(layers) != len(config.diff_ids):
                continue
            return StoredImage(
                reference=next((name for name, value in self.names().items() if value == digest), ""),
                digest=digest,
                config=config,
                layers=tuple(layers),
                bytes=sum(path.stat().st_size for path in layers),
            )
        return None

    def names(self) -> Mapping[str, str]:
        """Return the manifest digest of every known reference; a pulled name goes before a baked one."""
        return {name: digest for root in self._roots for name, digest in _names(root).items()}

    def find(self, reference: ImageReference) -> StoredImage | None:
        """Return the image of a reference: by its digest if it has one, else by the name it was stored under."""
        digest = reference.digest or self.names().get(str(reference))
        return self.get(digest) if digest else None

    def list(self) -> tuple[StoredImage, ...]:
        """Return every complete image once a reference, or once if it has none; by reference and digest."""
        named = list(self.names().items())
        digests = {
            path.stem.replace("-", ":") for root in self._roots for path in (root / "manifests").glob("sha256-*.json")
        }
        nameless = [("", digest) for digest in digests - {digest for _, digest in named}]
        return tuple(
            replace(image, reference=reference)
            for reference, digest in sorted(named + nameless)
            if (image := self.get(digest))
        )

    def _root(self) -> Path:
        if self.writable is None:
            raise ImageStoreError("this image store is read-only")
        for kind in ("layers", "manifests", "configs", "tmp"):
            (self.writable / kind).mkdir(parents=True, exist_ok=True)
        return self.writable

    def clean(self) -> Path:
        """Remove what an interrupted pull left; returns the folder for temporary files. The caller holds the lock."""
        root = self._root()
        for path in (root / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for kind in ("layers", "manifests", "configs"):
            for path in (root / kind).glob(".*.tmp"):
                path.unlink()
        return root / "tmp"

    def add(self, layout: Path, digest: str, name: str | None, *, make: MakeErofs = make_erofs) -> StoredImage:
        """Take an image out of an OCI layout into the writable folder.

        Args:
            layout: the folder with ``blobs/sha256``.
            digest: digest of the manifest.
            name: the reference to remember it under, if any.
            make: see :func:`hostctl.image.layers.convert`.

        Raises:
            ImageFormatError, LayerError: the image is not sound; nothing of it is visible then.
        """
        root = self._root()
        manifest_bytes = blob(layout, digest)
        manifest = parse_manifest(manifest_bytes)
        config_bytes = blob(layout, manifest.config.digest)
        config = parse_config(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            raise ImageFormatError("the image's configuration and manifest do not have the same number of layers")
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if self._layer(diff_id) is None:
                convert(blob_path(layout, layer.digest), layer, diff_id, _file(root, "layers", diff_id), make=make)
        write_file(_file(root, "configs", manifest.config.digest), config_bytes)
        write_file(_file(root, "manifests", digest), manifest_bytes)
        if name is not None:
            names = {**_names(root), name: digest}
            write_file(root / "names.json", json.dumps(names, indent=1, sort_keys=True).encode())
        stored = self.get(digest)
        if stored is None:
            raise ImageStoreError(f"the image {digest} is incomplete after it was stored")
        return stored

    def collect(self, keep: Collection[str]) -> tuple[Path, ...]:
        """Remove every image from the writable folder whose manifest digest is not in ``keep``.

        Names of removed images go first, then manifests, so that a cut leaves no image that is half there.

        Returns:
            The files that were removed.
        """
        root = self._root()
        names = {name: digest for name, digest in _names(root).items() if digest in keep}
        write_file(root / "names.json", json.dumps(names, indent=1, sort_keys=True).encode())
        wanted: set[Path] = set()
        for digest in keep:
            path = _file(root, "manifests", digest)
            if not path.is_file():
                continue
            config = _file(root, "configs", parse_manifest(verified(path.read_bytes(), digest)).config.digest)
            wanted |= {path, config}
            if config.is_file():
                diff_ids = parse_config(config.read_bytes()).diff_ids
                wanted |= {_file(root, "layers", diff_id) for diff_id in diff_ids}
        removed: list[Path] = []
        for kind in ("manifests", "configs", "layers"):
            for path in sorted((root / kind).glob("sha256-*")):
                if path not in wanted:
                    path.unlink()
                    removed.append(path)
            sync_directory(root / kind)
        return tuple(removed)


def blob_path(layout: Path, digest: str) -> Path:
    """Return the path of a blob in an OCI layout; one that is missing or no plain file raises ImageFormatError."""
    path = layout / "blobs/sha256" / check_digest(digest).removeprefix("sha256:")
    if path.is_symlink() or not path.is_file():
        raise ImageFormatError(f"the image's blob {digest} is missing")
    return path


def blob(layout: Path, digest: str, limit: int = 4 << 20) -> bytes:
    """Return a small blob of an OCI layout, verified by its digest; ``limit`` in bytes."""
    with blob_path(layout, digest).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ImageFormatError(f"the image's blob {digest} has more than {limit} bytes")
    return verified(data, digest)
