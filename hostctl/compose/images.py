"""Bakes OCI archives into a release: a store tree of EROFS layers that every host finds by name, without a registry.

An archive's name is what its own index says. Equal archives and tools give equal trees. Nothing here pulls. Layers are
not compressed: a release is, on its way, and its deltas see through plain files only.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from hostctl.compose.tools import ToolsRoot
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.archive import import_archive
from hostctl.image.layers import make_plain
from hostctl.image.oci import MANIFEST_BYTES, parse_single
from hostctl.image.store import ImageStore

REFERENCE = "org.opencontainers.image.ref.name"
"""Annotation with the name of an entry of index.json (OCI image specification, annotations.md)."""


class BakedImageError(HostctlError):
    """An archive of the release cannot be baked in."""

    id = "baked-image"


def archive_reference(archive: Path) -> ImageReference:
    """Return the name that the archive gives its one image.

    Raises:
        BakedImageError: it cannot be read, or names no usable reference.
        ImageFormatError: its index is malformed or has several images.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            found = tar.extractfile("index.json")
            data = found.read(MANIFEST_BYTES + 1) if found else b""
    except (OSError, KeyError, tarfile.TarError) as error:
        hint = "`hostctl image build` makes such archives"
        raise BakedImageError(f"{archive} is no OCI archive", details=str(error), hint=hint) from error
    parse_single(data)
    annotations = json.loads(data)["manifests"][0].get("annotations")
    name = annotations.get(REFERENCE) if isinstance(annotations, dict) else None
    try:
        return ImageReference.parse(str(name or ""))
    except ValueError as error:
        raise BakedImageError(f"{archive} does not say its name", details=f"{REFERENCE}: {error}") from error


def bake(archives: Sequence[Path], toolbox: ToolsRoot, output: Path) -> None:
    """Fill the folder ``output`` with a store of the images of ``archives``.

    Args:
        archives: OCI archives, one image each.
        toolbox: whose ``mkfs.erofs`` to run.
        output: becomes the store.

    Raises:
        BakedImageError: an archive is not usable, or two have one name.
        ImageFormatError, LayerError: an image is not sound.
    """
    store = ImageStore(output, protect=False)
    for archive in archives:
        reference = archive_reference(archive)
        if str(reference) in store.names():
            raise BakedImageError(f"two archives of the release are named {reference}", details=str(archive))
        import_archive(archive, reference, store, make=lambda path: toolbox.argv(make_plain(path), binds=[path.parent]))
    for passing in ("tmp", "incoming"):
        shutil.rmtree(output / passing, ignore_errors=True)


def describe(baked: Path) -> dict[ImageReference, str]:
    """Return the manifest digests of the images in a store that :func:`bake` filled, by reference."""
    return {ImageReference(name): digest for name, digest in ImageStore(baked).names().items()}
