"""Imports images from archives: a tar of an OCI layout, what ``docker save`` writes, or a layout's folder.

Only the files that such archives are made of are taken out, under names of ours; a link in an archive is an entry in a
table, never one on the disk. Formats: https://github.com/opencontainers/image-spec v1.1, image-layout.md;
https://github.com/moby/docker-image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import gzip
import json
import posixpath
import re
import tarfile
import tempfile
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO

import zstandard

from hostctl.config.values import ImageReference
from hostctl.image.layers import MakeErofs, make_erofs, unpacked
from hostctl.image.oci import (
    CONFIG_BYTES,
    LAYERS,
    MANIFEST_BYTES,
    Compression,
    ImageFormatError,
    Named,
    digest_of,
    is_index,
    parse_entries,
    parse_index,
    parse_manifest,
    parse_saved,
    parse_single,
)
from hostctl.image.store import ImageStore, StoredImage, blob
from hostctl.image.tarstream import CHUNK, LayerError, Source, TarReader, exactly, padded

_HEX = "[0-9a-f]{64}"
_MEMBER = re.compile(rf"(\./)?(index\.json|manifest\.json|blobs/sha256/{_HEX}|{_HEX}\.json|{_HEX}(/layer)?\.tar)")
MEMBERS = 4096
ARCHIVE_BYTES = 32 << 30
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OCI = "application/vnd.oci.image"


class _Stream:
    """What an archive is read from: the beginning that was looked at, then the rest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._head = file.read(4)
        self._file = file
        found = (kind for magic, kind in _MAGIC.items() if self._head.startswith(magic))
        self.kind: Compression = next(found, "none")

    def read(self, size: int = CHUNK, /) -> bytes:
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        return self._file.read(min(size, CHUNK))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unpacked:
    """The files of an archive: a layout's folder, and for others' names where their content lies."""

    layout: Path
    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the file of a member; links are followed in the table, a few at most."""
        for _ in range(LAYERS):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise ImageFormatError(f"the archive has no {name[:200]!r}")

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file."""
        with self.path(name).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ImageFormatError(f"the archive's {name} has more than {limit} bytes")
        return data


def _plain_name(text: str) -> str | None:
    match = _MEMBER.fullmatch(text)
    return match[2] if match else None


def _take(source: Source, size: int, target: Path | None) -> None:
    left, whole = size, padded(size)
    with (target or Path("/dev/null")).open("wb") as file:
        while whole:
            part = exactly(source, min(whole, CHUNK))
            file.write(part[:left])
            left, whole = left - len(part[:left]), whole - len(part)


def _unpack(file: IO[bytes], folder: Path) -> _Unpacked:
    layout = folder / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    (folder / "others").mkdir()
    found = _Unpacked(layout=layout)
    stream = _Stream(file)
    source = unpacked(stream, stream.kind)
    count = total = 0
    try:
        for member in TarReader(source).members():
            count, total = count + 1, total + member.size
            if count > MEMBERS or total > ARCHIVE_BYTES:
                raise ImageFormatError(f"the archive has more than {MEMBERS} entries or {ARCHIVE_BYTES} bytes")
            name = _plain_name(member.name)
            if name and member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                base = posixpath.dirname(name) if member.type == tarfile.SYMTYPE else ""
                found.links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
            target = None
            if name and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                inner = layout / name if name.startswith("blobs/") else folder / "others" / name.replace("/", "-")
                found.files[name] = target = inner
            _take(source, member.size, target)
    except (LayerError, EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        details = error.brief if isinstance(error, LayerError) else str(error)
        raise ImageFormatError("this is no archive of images", details=details) from error
    return found


def _manifest_digest(layout: Path, digest: str) -> str:
    document = blob(layout, digest)
    if is_index(document):
        digest = parse_index(document).digest
        document = blob(layout, digest)
    parse_manifest(document)
    return digest


def _saved(archive: _Unpacked) -> list[Named]:
    """Make manifests for the images of ``docker save``, which has none of them."""
    images = []
    for saved in parse_saved(archive.read("manifest.json", MANIFEST_BYTES)):
        config = archive.read(saved.config, CONFIG_BYTES)
        layers = [_blob(archive, name) for name in saved.layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _put(archive.layout, f"{_OCI}.config.v1+json", config),
            "layers": layers,
        }
        document = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        _put(archive.layout, "", document)
        images.append(Named(digest=digest_of(document), names=saved.names))
    return images


def _put(layout: Path, kind: str, data: bytes) -> dict[str, object]:
    (layout / "blobs/sha256" / sha256(data).hexdigest()).write_bytes(data)
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def _blob(archive: _Unpacked, name: str) -> dict[str, object]:
    """Give a layer its place in the layout, by its content."""
    path = archive.path(name)
    digest = sha256()
    with path.open("rb") as file:
        head = file.read(4)
        digest.update(head)
        while part := file.read(CHUNK):
            digest.update(part)
    kind = next((f"+{kind}" for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    target = archive.layout / "blobs/sha256" / digest.hexdigest()
    if not target.exists():
        target.hardlink_to(path)
    size = target.stat().st_size
    return {"mediaType": f"{_OCI}.layer.v1.tar{kind}", "digest": f"sha256:{digest.hexdigest()}", "size": size}


def load_stream(file: IO[bytes], store: ImageStore, *, make: MakeErofs = make_erofs) -> tuple[StoredImage, ...]:
    """Bring every image of an archive into the store, plain, gzip or zstd, under the names that the archive gives them.

    Args:
        file: the archive; a pipe will do.
        store: one with a writable folder; the caller holds the lock.
        make: see :func:`hostctl.image.layers.convert`.

    Raises:
        ImageFormatError, LayerError: it is no archive of images, or one is not sound; those before it are kept.
        NoRoomError: they do not fit.
    """
    stored: list[StoredImage] = []
    with tempfile.TemporaryDirectory(dir=store.clean()) as folder:
        archive = _unpack(file, Path(folder))
        if "index.json" in archive.files:
            images = parse_entries(archive.read("index.json", MANIFEST_BYTES))
        else:
            images = tuple(_saved(archive))
        for image in images:
            digest = _manifest_digest(archive.layout, image.digest)
            added = [store.add(archive.layout, digest, None, make=make)]
            added = [store.name(added[0], str(name)) for name in image.names] or added
            stored += added
    return tuple(stored)


def load_single(file: IO[bytes], store: ImageStore, *, make: MakeErofs = make_erofs) -> StoredImage:
    """Bring the one image of an archive into the store, without a name, whatever the archive says; else as
    :func:`load_stream`."""
    with tempfile.TemporaryDirectory(dir=store.clean()) as folder:
        archive = _unpack(file, Path(folder))
        return store.add(archive.layout, _only(archive), None, make=make)


def _only(archive: _Unpacked) -> str:
    return _manifest_digest(archive.layout, parse_single(archive.read("index.json", MANIFEST_BYTES)).digest)


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
        files = {"index.json": path / "index.json"} if (path / "index.json").is_file() else {}
        return store.add(path, _only(_Unpacked(layout=path, files=files)), name, make=make)
    with tempfile.TemporaryDirectory(dir=temporary) as folder, path.open("rb") as file:
        archive = _unpack(file, Path(folder))
        return store.add(archive.layout, _only(archive), name, make=make)
