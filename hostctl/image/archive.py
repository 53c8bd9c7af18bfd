"""Imports images from archives: a tar of an OCI layout, what ``docker save`` writes, or a layout's folder.

Only the files that such archives are made of are looked at, under names of ours; a link in an archive is an entry in a
table, never one on the disk. Members of an archive that is a plain file are read where they lie; those of a pipe or of
a compressed archive are put one after the other into a file without a name.
Formats: https://github.com/opencontainers/image-spec v1.1, image-layout.md;
https://github.com/moby/docker-image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import re
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Protocol

import zstandard

from hostctl.config.values import ImageReference
from hostctl.image.blobs import Blobs, Extent, Layout, Reader, whole
from hostctl.image.layers import MakeErofs, make_erofs, unpacked
from hostctl.image.oci import (
    CONFIG_BYTES,
    LAYERS,
    MANIFEST_BYTES,
    Compression,
    ImageFormatError,
    Named,
    check_digest,
    digest_of,
    is_index,
    parse_config,
    parse_entries,
    parse_index,
    parse_manifest,
    parse_saved,
    parse_single,
    verified,
)
from hostctl.image.store import ImageStore, StoredImage
from hostctl.image.tarstream import CHUNK, LayerError, Source, TarReader, exactly, padded

_HEX = "[0-9a-f]{64}"
_MEMBER = re.compile(rf"(\./)?(index\.json|manifest\.json|blobs/sha256/{_HEX}|{_HEX}\.json|{_HEX}(/layer)?\.tar)")
MEMBERS = 4096
ARCHIVE_BYTES = 32 << 30
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Archive:
    """The members of an archive that may belong to an image, and the documents that it lacks; see :class:`Blobs`."""

    files: dict[str, Extent] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    """By digest: what the archives of Docker do not have."""
    layers: dict[str, Extent] = field(default_factory=dict)
    """By digest: where the layers of Docker's archives lie."""

    def find(self, name: str) -> Extent:
        """Return where a member lies; links are followed in the table, a few at most."""
        for _ in range(LAYERS):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise ImageFormatError(f"the archive has no {name[:200]!r}")

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file."""
        return self.find(name).document(f"archive's {name}", limit)

    def _blob(self, digest: str) -> Extent:
        found = self.files.get(f"blobs/sha256/{check_digest(digest).removeprefix('sha256:')}")
        if found is None:
            raise ImageFormatError(f"the image's blob {digest} is missing")
        return found

    def document(self, digest: str) -> bytes:
        """Return a small blob, verified."""
        if digest in self.made:
            return self.made[digest]
        return verified(self._blob(digest).document(f"image's blob {digest}"), digest)

    def layer(self, digest: str) -> AbstractContextManager[Extent]:
        """Return where a layer lies."""
        return nullcontext(self.layers.get(digest) or self._blob(digest))

    def put(self, kind: str, data: bytes) -> dict[str, object]:
        """Add a document; returns its descriptor."""
        self.made[digest_of(data)] = data
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


class _Members(Protocol):
    """What an archive is read from, and where its members then lie."""

    source: Source

    def take(self, size: int, *, wanted: bool) -> Extent:
        """Pass over the content of a member and return where it lies; one that is not wanted lies nowhere."""


class _InPlace:
    """Members of a plain file."""

    def __init__(self, reader: Reader, descriptor: int) -> None:
        self._reader = reader
        self.source: Source = reader
        self._descriptor = descriptor

    def take(self, size: int, *, wanted: bool) -> Extent:
        """See :class:`_Members`."""
        del wanted
        found = Extent(self._descriptor, self._reader.position, size)
        if not self._reader.skip(padded(size)):
            raise LayerError("the archive is cut off")
        return found


class _Copied:
    """Members of a stream, whose contents are copied into a file."""

    def __init__(self, source: Source, file: IO[bytes]) -> None:
        self.source = source
        self._file = file

    def take(self, size: int, *, wanted: bool) -> Extent:
        """See :class:`_Members`."""
        found = Extent(self._file.fileno(), self._file.tell(), size)
        left, rest = size, padded(size)
        while rest:
            part = exactly(self.source, min(rest, CHUNK))
            if wanted:
                self._file.write(part[:left])
            left, rest = left - len(part[:left]), rest - len(part)
        return found


class _Stream:
    """What an archive is read from: the beginning that was looked at, then the rest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._head = file.read(4)
        self._file = file
        self.kind = _kind(self._head)

    def read(self, size: int = CHUNK, /) -> bytes:
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        return self._file.read(min(size, CHUNK))


def _kind(head: bytes) -> Compression:
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")


def _plain_file(file: IO[bytes]) -> Extent | None:
    """Return what is left of a regular file that is not compressed; none for anything else."""
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return None
    start = file.tell()
    extent = Extent(descriptor, start, max(0, status.st_size - start))
    return extent if _kind(extent.reader().read(4)) == "none" else None


@contextmanager
def _opened(file: IO[bytes], folder: Path) -> Iterator[_Archive]:
    """Return the archive that ``file`` is; ``folder`` takes what has to be copied out of it, until the end."""
    plain = _plain_file(file)
    if plain is not None:
        yield _scan(_InPlace(plain.reader(), plain.descriptor))
        return
    with tempfile.TemporaryFile(dir=folder) as copied:
        stream = _Stream(file)
        archive = _scan(_Copied(unpacked(stream, stream.kind), copied))
        copied.flush()
        yield archive


def _scan(members: _Members) -> _Archive:
    found = _Archive()
    count = total = 0
    try:
        for member in TarReader(members.source).members():
            count, total = count + 1, total + member.size
            if count > MEMBERS or total > ARCHIVE_BYTES:
                raise ImageFormatError(f"the archive has more than {MEMBERS} entries or {ARCHIVE_BYTES} bytes")
            name = _plain_name(member.name)
            if name and member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                base = posixpath.dirname(name) if member.type == tarfile.SYMTYPE else ""
                found.links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
            wanted = bool(name) and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            extent = members.take(member.size, wanted=wanted)
            if name and wanted:
                found.files[name] = extent
    except (LayerError, EOFError, zlib.error, zstandard.ZstdError) as error:
        details = error.brief if isinstance(error, LayerError) else str(error)
        raise ImageFormatError("this is no archive of images", details=details) from error
    return found


def _manifest_digest(blobs: Blobs, digest: str) -> str:
    document = blobs.document(digest)
    if is_index(document):
        digest = parse_index(document).digest
        document = blobs.document(digest)
    parse_manifest(document)
    return digest


def _saved(archive: _Archive) -> list[Named]:
    """Make manifests for the images of ``docker save``, which has none of them."""
    images = []
    for saved in parse_saved(archive.read("manifest.json", MANIFEST_BYTES)):
        config = archive.read(saved.config, CONFIG_BYTES)
        diff_ids = parse_config(config).diff_ids
        if len(diff_ids) != len(saved.layers):
            raise ImageFormatError("the image's configuration and the archive do not have the same number of layers")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": archive.put(f"{_OCI}.config.v1+json", config),
            "layers": [_layer(archive, *each) for each in zip(saved.layers, diff_ids, strict=True)],
        }
        document = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        archive.put("", document)
        images.append(Named(digest=digest_of(document), names=saved.names))
    return images


def _layer(archive: _Archive, name: str, diff_id: str) -> dict[str, object]:
    """Return the descriptor of a layer.

    One that is not compressed has the diffID that the configuration says, or is refused when it is read; only the
    digest of a compressed one has to be found before.
    """
    extent = archive.find(name)
    kind = _kind(extent.reader().read(4))
    digest = diff_id if kind == "none" else _digest(extent)
    archive.layers[digest] = extent
    suffix = "" if kind == "none" else f"+{kind}"
    return {"mediaType": f"{_OCI}.layer.v1.tar{suffix}", "digest": digest, "size": extent.size}


def _digest(extent: Extent) -> str:
    digest, reader = sha256(), extent.reader()
    while part := reader.read(CHUNK):
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def _plain_name(text: str) -> str | None:
    match = _MEMBER.fullmatch(text)
    return match[2] if match else None


def load_stream(file: IO[bytes], store: ImageStore, *, make: MakeErofs = make_erofs) -> tuple[StoredImage, ...]:
    """Bring every image of an archive into the store, plain, gzip or zstd, under the names that the archive gives them.

    Args:
        file: the archive, from where it stands; a pipe will do.
        store: one with a writable folder; the caller holds the lock.
        make: see :func:`hostctl.image.layers.convert`.

    Raises:
        ImageFormatError, LayerError: it is no archive of images, or one is not sound; those before it are kept.
        NoRoomError: they do not fit.
    """
    stored: list[StoredImage] = []
    with _opened(file, store.clean()) as archive:
        if "index.json" in archive.files:
            images = parse_entries(archive.read("index.json", MANIFEST_BYTES))
        else:
            images = tuple(_saved(archive))
        for image in images:
            digest = _manifest_digest(archive, image.digest)
            added = [store.add(archive, digest, None, make=make)]
            added = [store.name(added[0], str(name)) for name in image.names] or added
            stored += added
    return tuple(stored)


def load_single(file: IO[bytes], store: ImageStore, *, make: MakeErofs = make_erofs) -> StoredImage:
    """Bring the one image of an archive into the store, without a name, whatever the archive says; else as
    :func:`load_stream`."""
    with _opened(file, store.clean()) as archive:
        return store.add(archive, _only(archive, archive.read("index.json", MANIFEST_BYTES)), None, make=make)


def _only(blobs: Blobs, index: bytes) -> str:
    return _manifest_digest(blobs, parse_single(index).digest)


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
        layout, index = Layout(path), path / "index.json"
        if not index.is_file():
            raise ImageFormatError(f"{path} is no OCI layout: it has no index.json")
        with whole(index) as extent:
            digest = _only(layout, extent.document("layout's index.json", MANIFEST_BYTES))
        return store.add(layout, digest, name, make=make)
    with path.open("rb") as file, _opened(file, temporary) as archive:
        digest = _only(archive, archive.read("index.json", MANIFEST_BYTES))
        return store.add(archive, digest, name, make=make)
