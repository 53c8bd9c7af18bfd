"""The image store: EROFS layers by diffID, manifests and configurations by digest, and a table of names.

Two folders of one layout: ``writable`` takes pulls, ``baked`` came with the release inside the verified root. An
image counts as there only when its manifest, configuration and every layer are; the manifest is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hostctl.config.values import ImageReference
from hostctl.durable import write_file
from hostctl.image import retention
from hostctl.image.blobs import Blobs, Extent, Layout
from hostctl.image.layers import MakeErofs, convert, copy_layer, make_erofs
from hostctl.image.oci import (
    Descriptor,
    ImageConfig,
    ImageFormatError,
    Manifest,
    check_digest,
    parse_config,
    parse_manifest,
    verified,
)
from hostctl.image.room import ImageStoreError, NoRoomError


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image that is ready to run; ``layers`` are EROFS files, lowest first, ``bytes`` their size together."""

    reference: str
    digest: str
    config: ImageConfig
    layers: tuple[Path, ...]
    bytes: int
    id: str = ""
    """Digest of the configuration, which Docker calls the image's id."""


def _file(root: Path, kind: str, digest: str) -> Path:
    suffix = "erofs" if kind == "layers" else "json"
    return root / kind / f"{check_digest(digest).replace(':', '-')}.{suffix}"


def _table(root: Path, file: str) -> dict[str, str]:
    try:
        found = json.loads((root / file).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ImageStoreError(f"{root / file} is damaged", details=str(error)) from error
    if not isinstance(found, dict):
        raise ImageStoreError(f"{root / file} is damaged")
    return {str(name): str(value) for name, value in found.items()}


def _names(root: Path) -> dict[str, str]:
    return {name: check_digest(digest) for name, digest in _table(root, "names.json").items()}


class ImageStore:
    """Finds images in the writable and the baked folder, and adds to the writable one.

    Args:
        writable: the folder for pulls; none makes the store read-only.
        baked: the folder that came with the release.
        limit: bytes that the writable folder may take; none is no limit.
        pinned: manifest digests of images that are never removed to make room.
        protect: whether layers get fs-verity and a record to compare them with later.
    """

    def __init__(
        self,
        writable: Path | None,
        baked: Path | None = None,
        *,
        limit: int | None = None,
        pinned: Collection[str] = (),
        protect: bool = True,
    ) -> None:
        self.writable = writable
        self.baked = baked
        self.limit = limit
        self._protect = protect
        self._held = set(pinned)  # and every image that was given out: somebody is about to need it

    @property
    def _roots(self) -> tuple[Path, ...]:
        return tuple(root for root in (self.baked, self.writable) if root is not None)

    def _layer(self, diff_id: str, roots: Iterable[Path]) -> Path | None:
        paths = (_file(root, "layers", diff_id) for root in roots)
        return next((path for path in paths if path.is_file()), None)

    def own_layer(self, diff_id: str) -> Path | None:
        """Return the EROFS file of a layer in the writable folder; none if there is none.

        One that came with the release goes with it, and has no recipe: an image that outlives it has its own.
        """
        return self._layer(diff_id, () if self.writable is None else (self.writable,))

    def documents(self, digest: str) -> tuple[bytes, bytes]:
        """Return manifest and configuration of an image that is there, as its registry gave them.

        Raises:
            ImageStoreError: it is not there.
            ImageFormatError: what is stored is not what its digest says.
        """
        for root in self._roots:
            try:
                manifest = verified(_file(root, "manifests", digest).read_bytes(), digest)
                wanted = parse_manifest(manifest).config.digest
                return manifest, verified(_file(root, "configs", wanted).read_bytes(), wanted)
            except FileNotFoundError:
                continue
        raise ImageStoreError(f"there is no image {digest}")

    def _get(self, digest: str, names: Mapping[str, str]) -> StoredImage | None:
        try:
            manifest_bytes, config_bytes = self.documents(digest)
        except ImageStoreError:
            return None
        manifest, config = parse_manifest(manifest_bytes), parse_config(config_bytes)
        roots = self._roots if self.is_baked(digest) else self._roots[::-1]
        layers = [path for diff_id in config.diff_ids if (path := self._layer(diff_id, roots))]
        if len(layers) != len(config.diff_ids):
            return None
        return StoredImage(
            reference=next((name for name, value in names.items() if value == digest), ""),
            digest=digest,
            config=config,
            layers=tuple(layers),
            bytes=sum(path.stat().st_size for path in dict.fromkeys(layers)),
            id=manifest.config.digest,
        )

    def get(self, digest: str) -> StoredImage | None:
        """Return the image with a manifest digest, or none if any part of it is missing.

        Raises:
            ImageFormatError: what is stored is not what its digest says.
        """
        found = self._get(digest, self.names())
        if found is not None:
            self._held.add(digest)
        return found

    def names(self) -> Mapping[str, str]:
        """Return the manifest digest of every known reference; a pulled name goes before a baked one."""
        return {name: digest for root in self._roots for name, digest in _names(root).items()}

    def find(self, reference: ImageReference) -> StoredImage | None:
        """Return the image of a reference: by its digest if it has one, else by the name it was stored under.

        A digest may be that of an index, which a pull has verified; then it is found by its name as well.
        """
        found = self.get(reference.digest) if reference.digest else None
        digest = self.names().get(str(reference))
        return found or (self.get(digest) if digest else None)

    def digests(self) -> tuple[str, ...]:
        """Return the manifest digests of everything that is there, complete or not."""
        folders = [root / "manifests" for root in self._roots]
        return tuple(sorted({path.stem.replace("-", ":") for each in folders for path in each.glob("sha256-*.json")}))

    def list(self) -> tuple[StoredImage, ...]:
        """Return every complete image once a reference, or once if it has none; by reference and digest."""
        names = self.names()
        nameless = [("", digest) for digest in set(self.digests()) - set(names.values())]
        return tuple(
            replace(image, reference=reference)
            for reference, digest in sorted([*names.items(), *nameless])
            if (image := self._get(digest, names))
        )

    def is_baked(self, digest: str) -> bool:
        """Tell whether an image came with the release."""
        return self.baked is not None and _file(self.baked, "manifests", digest).is_file()

    def is_signed(self, digest: str, by: str) -> bool:
        """Tell whether an image was once found signed; baked ones are signed with their release.

        Args:
            digest: of the manifest.
            by: the key and the repository, see :meth:`hostctl.image.registry.Access.signer`; empty asks for none.
        """
        if not by or self.is_baked(digest):
            return True
        return self.writable is not None and by in _table(self.writable, "signed.json").get(digest, "").split()

    def _root(self) -> Path:
        if self.writable is None:
            raise ImageStoreError("this image store is read-only")
        for kind in ("layers", "manifests", "configs", "tmp", "incoming"):
            (self.writable / kind).mkdir(parents=True, exist_ok=True)
        return self.writable

    def clean(self) -> Path:
        """Remove what an interrupted pull left; returns the folder for temporary files. The caller holds the lock."""
        root = self._root()
        retention.discard(retention.unfinished(root))
        return root / "tmp"

    def incoming(self, digest: str) -> Path:
        """Return the folder in which an image arrives; it outlives a cut, so that the next try goes on there."""
        self.clean()
        folder = self._root() / "incoming" / check_digest(digest).replace(":", "-")
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        return folder

    def take_layer(self, blob: Path | Extent, layer: Descriptor, diff_id: str, *, make: MakeErofs = make_erofs) -> Path:
        """Import one layer from its blob; see :func:`hostctl.image.layers.convert`."""
        target = _file(self._root(), "layers", diff_id)
        return convert(blob, layer, diff_id, target, make=make, protect=self._protect)

    def adopt(self, image: StoredImage) -> None:
        """Copy those layers of an image that came with the release, for an image that outlives it.

        Raises:
            NoRoomError: they do not fit.
        """
        root = self._root()
        wanted = zip(image.config.diff_ids, image.layers, strict=True)
        lacking = {_file(root, "layers", diff_id): path for diff_id, path in wanted}
        lacking = {target: path for target, path in lacking.items() if not target.exists()}
        self.make_room(sum(path.stat().st_size for path in lacking.values()))
        for target, path in lacking.items():
            copy_layer(path, target, protect=self._protect)

    def add(
        self, source: Path | Blobs, digest: str, name: str | None, *, make: MakeErofs = make_erofs, signed: str = ""
    ) -> StoredImage:
        """Take an image into the writable folder.

        Args:
            source: the folder of an OCI layout, or what else has the image's blobs.
            digest: digest of the manifest.
            name: the reference to remember it under, if any.
            make: see :func:`hostctl.image.layers.convert`.
            signed: by what it was found signed, see :meth:`is_signed`.

        Raises:
            ImageFormatError, LayerError: the image is not sound; nothing of it is visible then.
            NoRoomError: it is too large; nothing of it is kept then.
        """
        root = self._root()
        blobs = Layout(source) if isinstance(source, Path) else source
        manifest_bytes = blobs.document(digest)
        manifest = parse_manifest(manifest_bytes)
        config_bytes = blobs.document(manifest.config.digest)
        config = parse_config(config_bytes)
        for diff_id, layer in pairs(manifest, config).items():
            if self.own_layer(diff_id) is None:
                with blobs.layer(layer.digest) as extent:
                    self.take_layer(extent, layer, diff_id, make=make)
        try:
            self.make_room(0, needed=[_file(root, "layers", diff_id) for diff_id in config.diff_ids])
        except NoRoomError:
            retention.sweep(root, ())
            raise
        if signed:
            table = _table(root, "signed.json")
            keys = {*table.get(digest, "").split(), signed}
            self._write_table("signed.json", {**table, digest: " ".join(sorted(keys))})
        write_file(_file(root, "configs", manifest.config.digest), config_bytes)
        write_file(_file(root, "manifests", digest), manifest_bytes)
        if name is not None:
            self._write_table("names.json", {**_names(root), name: digest})
        stored = self.get(digest)
        if stored is None:
            raise ImageStoreError(f"the image {digest} is incomplete after it was stored")
        return stored if name is None else replace(stored, reference=name)

    def _write_table(self, file: str, table: Mapping[str, str]) -> None:
        write_file(self._root() / file, json.dumps(table, indent=1, sort_keys=True).encode())

    def name(self, image: StoredImage, name: str) -> StoredImage:
        """Give an image a name more; the image that had it keeps its others."""
        root = self._root()
        if self.names().get(name) != image.digest:
            self._write_table("names.json", {**_names(root), name: image.digest})
        manifest = _file(root, "manifests", image.digest)
        if manifest.exists():
            os.utime(manifest)
        return replace(image, reference=name)

    def forget(self, name: str) -> None:
        """Take a name away.

        Raises:
            ImageStoreError: there is none, or it came with the release.
        """
        names = _names(self._root())
        if name not in names:
            came = self.baked is not None and name in _names(self.baked)
            raise ImageStoreError(f"{name} came with the release" if came else f"there is no image {name}")
        self._write_table("names.json", {each: digest for each, digest in names.items() if each != name})

    def make_room(self, size: int, *, needed: Iterable[Path] = ()) -> None:
        """Remove images until ``size`` more bytes fit, the longest unused first; never one that is held.

        Raises:
            NoRoomError: they do not fit.
        """
        root = self._root()
        kept = tuple(needed)
        if self.limit is not None:
            retention.shrink(root, self._held, max(0, self.limit - size), kept)
            used = retention.used(root)
            if used + size > self.limit:
                raise NoRoomError(
                    f"the image needs {size or used} bytes, and images may take {self.limit}",
                    details=f"{used} bytes are in use, and the rest cannot be removed",
                    hint="raise images.max_size in host.yaml, or remove workloads",
                )
        free = shutil.disk_usage(root).free
        if size > free:
            raise NoRoomError(f"the image needs {size} bytes, and {free} are free", details=str(root))

    def collect(self, keep: Collection[str] = (), *, limit: int = 0) -> tuple[Path, ...]:
        """Remove images until the store has ``limit`` bytes, but those with a manifest digest in ``keep``.

        The longest unused go first. Names go before manifests, manifests before what they name, so that a cut leaves
        no image that is half there; what one left behind is removed by the next call.

        Returns:
            The files that were removed.
        """
        self.clean()
        return retention.shrink(self._root(), {*keep}, limit)


def pairs(manifest: Manifest, config: ImageConfig) -> dict[str, Descriptor]:
    """Return an image's layers by their diffID; one that occurs twice is there once.

    Raises:
        ImageFormatError: manifest and configuration do not have as many layers.
    """
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageFormatError("the image's configuration and manifest do not have the same number of layers")
    return dict(zip(config.diff_ids, manifest.layers, strict=True))
