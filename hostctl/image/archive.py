"""Imports an image from an OCI archive (a tar of an OCI layout) or from a layout's folder.

Only the files that a layout is made of are taken out of an archive: ``index.json`` and ``blobs/sha256/HEX``.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from hostctl.config.values import ImageReference
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.oci import ImageFormatError, is_index, parse_index, parse_manifest, parse_single
from hostctl.image.store import ImageStore, StoredImage, blob

_MEMBER = re.compile(r"(\./)?(index\.json|blobs/sha256/[0-9a-f]{64})")
MEMBERS = 1024
ARCHIVE_BYTES = 32 << 30


def _unpack(archive: Path, layout: Path) -> None:
    (layout / "blobs/sha256").mkdir(parents=True)
    count = total = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                count, total = count + 1, total + member.size
                if count > MEMBERS or total > ARCHIVE_BYTES:
                    raise ImageFormatError(f"{archive} has more than {MEMBERS} entries or {ARCHIVE_BYTES} bytes")
                match = _MEMBER.fullmatch(member.name)
                content = tar.extractfile(member) if match and member.isreg() else None
                if match is None or content is None:
                    continue
                with content, (layout / match[2]).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as error:
        raise ImageFormatError(f"{archive} is no OCI archive", details=str(error)) from error


def _manifest_digest(layout: Path) -> str:
    try:
        with (layout / "index.json").open("rb") as file:
            data = file.read((4 << 20) + 1)
    except FileNotFoundError as error:
        raise ImageFormatError(f"{layout} has no index.json") from error
    digest = parse_single(data).digest
    document = blob(layout, digest)
    if is_index(document):
        digest = parse_index(document).digest
        document = blob(layout, digest)
    parse_manifest(document)
    return digest


def import_archive(
    path: Path, reference: ImageReference | None, store: ImageStore, *, make: MakeErofs = make_erofs
) -> StoredImage:
    """Bring the one image of an OCI archive or layout into the store.

    Args:
        path: a ``.tar`` file, or the folder of a layout.
        reference: the name to remember it under.
        store: one with a writable folder.
        make: see :func:`hostctl.image.layers.convert`.

    Raises:
        ImageFormatError, LayerError: it is no OCI archive, has several images, or is not sound.
    """
    name = None if reference is None else str(reference)
    temporary = store.clean()
    if path.is_dir():
        return store.add(path, _manifest_digest(path), name, make=make)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        layout = Path(folder, "layout")
        _unpack(path, layout)
        return store.add(layout, _manifest_digest(layout), name, make=make)
