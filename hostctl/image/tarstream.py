"""One pass over a layer's tar stream that refuses what has no business in an image and writes out a plain one.

What comes out is written anew from the checked values, so the next program cannot read other names or sizes out of
the same bytes. Extended attributes are left out: ``trusted.overlay.*`` would change what the overlay shows.
Format: POSIX.1-2017 pax, "Extended Description"; whiteouts (``.wh.``) pass through as ordinary files.
"""

from __future__ import annotations

import secrets
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from hostctl.errors import HostctlError

BLOCK = 512
CHUNK = 1 << 20
HEADER_BYTES = 1 << 20  # of one extended header; a path has at most 4096 bytes
RECORDS = 256  # of one extended header; they are times, names and extended attributes
HEADERS = 8  # before one entry: GNU's two, pax, global ones
ENTRIES = 500_000
FILE_BYTES = 1 << 40  # beyond what a whole layer may unpack to; a header can claim up to 95 bits
DEPTH = 100
PATH_BYTES = 4096
NAME_BYTES = 255
ID_LIMIT = 65536  # a workload's user namespace has as many ids
UNSAFE_NAMES = frozenset({"..", ".wh.", ".wh..", ".wh..."})  # the last three would hide "", "." and ".."
MOUNT_POINTS = frozenset({"dev", "proc", "sys"})
_USED = {key.encode(): key for key in ("path", "linkpath", "size", "uid", "gid")}
_NEWLINE = 10
_FIELD_BYTES = 100  # of a name in a header
_BEHIND = b"ustar\x0000".ljust(BLOCK - 257, b"\0")


class LayerError(HostctlError):
    """A layer is malformed, dangerous or beyond a limit."""

    id = "image-layer"


class Source(Protocol):
    """What the stream is read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""


class _Tree:
    """What every path is, by a keyed hash of the path: half a million long ones would take gigabytes.

    The key is random and told nobody, so nobody finds two paths with the same 128 bits. A folder stays one, and what is
    above a path that is there is a folder and there, so a walk upwards ends at the first that is known.
    """

    def __init__(self) -> None:
        self._kinds: dict[bytes, bytes] = {}
        self._hash = blake2b(key=secrets.token_bytes(16), digest_size=16)
        self._folder = ""

    def _place(self, path: str) -> bytes:
        place = self._hash.copy()
        place.update(path.encode("utf-8", "surrogateescape"))
        return place.digest()

    def kind(self, path: str) -> bytes | None:
        """Return the type of an entry that was added, or of a folder above one; none for anything else."""
        return self._kinds.get(self._place(path))

    def add(self, path: str, kind: bytes) -> None:
        """Take an entry; LayerError if it does not go together with those before it."""
        if len(self._kinds) >= ENTRIES:
            raise LayerError(f"the layer has more than {ENTRIES} entries")
        self._enter(path)
        if path in MOUNT_POINTS and kind != tarfile.DIRTYPE:
            raise LayerError(f"the layer's /{path} is no folder")
        place = self._place(path)
        before = self._kinds.get(place, kind)
        if tarfile.DIRTYPE in (before, kind) and before != kind:
            raise LayerError(f"the layer has {path!r} both as a folder and as something else")
        self._kinds[place] = kind

    def _enter(self, path: str) -> None:
        parent = folder = path.rpartition("/")[0]
        if folder == self._folder:
            return
        while parent:
            place = self._place(parent)
            known = self._kinds.get(place)
            if known == tarfile.DIRTYPE:
                break
            if known is not None:
                raise LayerError(f"the layer puts {path!r} below {parent!r}, which is no folder")
            self._kinds[place] = tarfile.DIRTYPE
            parent = parent.rpartition("/")[0]
        self._folder = folder


def safe_path(name: str) -> str:
    """Return a member's name relative to the root, without ``.`` parts; empty for the root itself.

    Raises:
        LayerError: the name leaves the root, is too long, too deep or has a NUL in it.
    """
    if len(name) > 2 * PATH_BYTES:  # before it is split: ``./`` a million times is a short path
        raise LayerError(f"the layer has an entry with an overlong name {name[:200]!r}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if "\0" in name or not UNSAFE_NAMES.isdisjoint(parts):
        raise LayerError(f"the layer has an entry with the unsafe name {name[:200]!r}")
    sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    if len(parts) > DEPTH or sum(sizes) + len(parts) > PATH_BYTES or max(sizes, default=0) > NAME_BYTES:
        raise LayerError(f"the layer has an entry with an overlong name {name[:200]!r}")
    return "/".join(parts)


def exactly(source: Source, size: int) -> bytes:
    """Return the next ``size`` bytes; a stream that ends before raises LayerError."""
    parts: list[bytes] = []
    while size:
        part = source.read(min(size, CHUNK))
        if not part:
            raise LayerError("the layer is cut off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def padded(size: int) -> int:
    """Return how many bytes a content of ``size`` takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def _extended(body: bytes) -> tuple[dict[str, str], int]:
    """Return what is used of the records ``LENGTH KEY=VALUE\\n`` of a pax header, and how many records it has."""
    found: dict[str, str] = {}
    start = count = 0
    while start < len(body):
        length, space, _ = body[start : start + 12].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 < int(length) <= len(body) - start:
            raise LayerError("the layer has a malformed extended header")
        count += 1
        if count > RECORDS:
            raise LayerError(f"the layer has an extended header of more than {RECORDS} records")
        first, start = start + len(length) + 1, start + int(length)
        equals = body.find(b"=", first, start)
        if equals < 0 or body[start - 1] != _NEWLINE:
            raise LayerError("the layer has a malformed extended header")
        if body.startswith(b"GNU.sparse", first, equals):
            raise LayerError("the layer has a sparse file")
        key = _USED.get(body[first:equals])
        if key is not None:
            found[key] = body[equals + 1 : start - 1].decode("utf-8", "surrogateescape")
    return found, count


def _counted(count: int, limit: int, what: str) -> int:
    if count > limit:
        raise LayerError(f"the layer has more than {limit} {what}")
    return count


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise LayerError(f"the layer has an entry with the {what} {text[:40]!r}")
    return int(text)


@dataclass(slots=True)
class TarReader:
    """Reads a tar stream member by member; extended headers are bounded and applied, contents left to the caller.

    Whatever costs time is counted, also what leaves nothing behind: a layer of some kilobytes can hold millions of it.
    """

    source: Source
    longer: dict[str, str] = field(default_factory=dict)
    entries: int = 0
    headers: int = 0
    records: int = 0

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield members with their extended headers applied; the caller consumes each one's content."""
        before = 0
        while True:
            block = exactly(self.source, BLOCK)
            if not block.strip(b"\0"):
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise LayerError("the layer has a malformed header", details=str(error)) from error
            if info.size < 0:
                raise LayerError("the layer has an entry with a negative size")
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
                before += 1
                if before > HEADERS:
                    raise LayerError(f"the layer has more than {HEADERS} extended headers before one entry")
                self.headers = _counted(self.headers + 1, 2 * ENTRIES, "extended headers")
                self._remember(info)
                continue
            before = 0
            self.entries = _counted(self.entries + 1, ENTRIES, "entries")
            self._apply(info)
            yield info

    def _remember(self, info: tarfile.TarInfo) -> None:
        if info.size > HEADER_BYTES:
            raise LayerError("the layer has an overlong extended header")
        body = exactly(self.source, padded(info.size))[: info.size]
        if info.type in (tarfile.XGLTYPE, tarfile.XHDTYPE):
            found, count = _extended(body)
            self.records = _counted(self.records + count, 8 * ENTRIES, "records in extended headers")
            if info.type == tarfile.XHDTYPE:
                self.longer.update(found)
            elif {"path", "linkpath", "size"} & found.keys():
                raise LayerError("the layer has a global header that renames every entry")
        else:
            key = "path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            self.longer[key] = body.rstrip(b"\0").decode("utf-8", "surrogateescape")

    def _apply(self, info: tarfile.TarInfo) -> None:
        longer, self.longer = self.longer, {}
        info.name = longer.get("path", info.name)
        info.linkname = longer.get("linkpath", info.linkname)
        for key in ("size", "uid", "gid"):
            if key in longer:
                setattr(info, key, _number(longer[key], key))


def _checked(info: tarfile.TarInfo, tree: _Tree) -> tarfile.TarInfo | None:
    """Return the entry to write, or none for one that is left out (the root's siblings, pipes)."""
    kind = tarfile.REGTYPE if info.type in (tarfile.AREGTYPE, tarfile.CONTTYPE) else info.type
    if kind not in (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        raise LayerError(f"the layer has {info.name[:200]!r}, which is a device or of an unknown type {kind!r}")
    if kind != tarfile.REGTYPE and info.size:
        raise LayerError(f"the layer has {info.name[:200]!r}, which is no file but has content")
    if not 0 <= info.size <= FILE_BYTES:
        raise LayerError(f"the layer has {info.name[:200]!r} of {info.size} bytes")
    path = safe_path(info.name)
    if kind == tarfile.FIFOTYPE:
        return None
    if not (0 <= info.uid < ID_LIMIT and 0 <= info.gid < ID_LIMIT):
        raise LayerError(f"the layer's {path!r} belongs to {info.uid}:{info.gid}, beyond {ID_LIMIT - 1}")
    plain = tarfile.TarInfo(path or ".")
    plain.type, plain.size, plain.uid, plain.gid = kind, info.size, info.uid, info.gid
    plain.mode = info.mode & 0o7777
    if path:
        tree.add(path, kind)
    elif kind != tarfile.DIRTYPE:
        raise LayerError("the layer's root is no folder")
    if kind == tarfile.LNKTYPE:
        plain.linkname = safe_path(info.linkname)
        if plain.linkname == path or tree.kind(plain.linkname) in (None, tarfile.DIRTYPE):
            raise LayerError(f"the layer's {path!r} is a link to {info.linkname[:200]!r}, which is no file before it")
    if kind == tarfile.SYMTYPE:
        if not 0 < len(info.linkname) < PATH_BYTES or "\0" in info.linkname:
            raise LayerError(f"the layer's {path!r} is a symbolic link to nothing")
        plain.linkname = info.linkname
    return plain


def header(info: tarfile.TarInfo) -> bytes:
    """Return the header of an entry, as ``info.tobuf`` does without times and owners' names, in a quarter of the time.

    Names that are long or not ASCII, and sizes of 8 GiB, need a pax header before it, which is left to ``tarfile``.
    """
    name = info.name + "/" if info.type == tarfile.DIRTYPE and not info.name.endswith("/") else info.name
    link = info.linkname
    fits = max(len(name), len(link)) <= _FIELD_BYTES and name.isascii() and link.isascii()
    if not (fits and 0 <= info.size < 8**11 and 0 <= info.uid < 8**7 and 0 <= info.gid < 8**7):
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    numbers = (info.mode & 0o7777, info.uid, info.gid, info.size)
    before = name.encode().ljust(_FIELD_BYTES, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (*numbers, 0)
    behind = info.type + link.encode().ljust(_FIELD_BYTES, b"\0") + _BEHIND
    checksum = sum(before) + sum(behind) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + behind


def _unnamed(path: str, size: int) -> None:
    del path, size


def rewrite(source: Source, write: Callable[[bytes], object], content: Callable[[str, int], None] = _unnamed) -> int:
    """Check the tar stream ``source`` and pass a plain one to ``write``.

    Args:
        source: the uncompressed layer; read up to the end-of-archive block.
        write: takes the bytes of the new tar stream.
        content: told path and size of a file before its content is read.

    Returns:
        How many entries were written.

    Raises:
        LayerError: the stream is malformed, dangerous or beyond a limit.
    """
    tree, count = _Tree(), 0
    for info in TarReader(source).members():
        plain = _checked(info, tree)
        if plain is None:
            continue
        count += 1
        write(header(plain))
        if plain.size:
            content(plain.name, plain.size)
        left = padded(plain.size)
        while left:
            part = exactly(source, min(left, CHUNK))
            write(part)
            left -= len(part)
    write(b"\0" * (2 * BLOCK))
    return count
