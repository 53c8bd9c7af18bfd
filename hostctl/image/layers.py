"""Turns one layer blob into one EROFS file: decompress, check, verify both digests, write beside and rename.

No path of the layer ever reaches a file system: the checked tar stream goes to ``mkfs.erofs`` through its standard
input. What that sets aside meanwhile lies in the very file that it makes, far behind its end, and is cut off with it. A
layer that fails leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import zstandard

from hostctl.durable import replacing, sync_directory, write_file
from hostctl.image import verity
from hostctl.image.blobs import Extent, opened
from hostctl.image.gunzip import Gunzip
from hostctl.image.oci import LAYER_TYPES, Compression, Descriptor
from hostctl.image.recipe import Recorder
from hostctl.image.room import bounded
from hostctl.image.tarstream import CHUNK, LayerError, Source, rewrite
from hostctl.run import ENVIRONMENT, failure

UNPACKED_BYTES = 32 << 30
RATIO = 1032  # the most that deflate can do; zstd may do more, which no honest layer needs
RATIO_FREE_BYTES = 64 << 20  # below this much the ratio does not matter
ZSTD_WINDOW = 32 << 20  # of a frame, in memory, for each layer at a time
CLUSTER_BYTES = 64 << 10  # what is compressed together becomes at most so much; larger ones save little
HOST_MODE = 0o600  # what an image holds is not for the users of a host; a release's layers lie open in its root
UUID = "00000000-0000-0000-0000-000000000000"  # mkfs.erofs -U clear

MakeErofs = Callable[[Path], Sequence[str]]


def make_plain(output: Path) -> tuple[str, ...]:
    """Return the command that makes ``output`` from a tar stream on standard input, with a fixed UUID and times."""
    return ("mkfs.erofs", "--quiet", "--tar=f", "--aufs", f"-U{UUID}", "-T0", str(output))


def make_erofs(output: Path) -> tuple[str, ...]:
    """Return the command as :func:`make_plain`, of a compressed file.

    Without threads: with them mkfs.erofs 1.8 keeps all that becomes of a file in memory, and compressing is not what
    takes the time.
    """
    *words, target = make_plain(output)
    return (*words, "-zlz4", f"-C{CLUSTER_BYTES}", "--workers=0", target)


class _Compressed:
    """Counts and digests what is read of a blob."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = 0
        self.digest = sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        self.digest.update(data)
        return data


class _Unpacked:
    """Digests the uncompressed stream and stops a blob that unpacks to far more than it should."""

    def __init__(self, source: Source, compressed: _Compressed, limit: int) -> None:
        self._source = source
        self._compressed = compressed
        self._limit = limit
        self.count = 0
        self._plain = source is compressed  # then the bytes are the blob's, whose digest is computed anyway
        self.digest = compressed.digest if self._plain else sha256()

    def read(self, size: int, /) -> bytes:
        try:
            data = self._source.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise LayerError("the layer cannot be decompressed", details=str(error)) from error
        self.count += len(data)
        if not self._plain:
            self.digest.update(data)
        allowed = max(RATIO_FREE_BYTES, RATIO * self._compressed.count)
        if self.count > min(self._limit, allowed):
            raise LayerError(f"the layer unpacks to more than {min(self._limit, allowed)} bytes")
        return data


def unpacked(compressed: Source, kind: Compression) -> Source:
    """Return what gives the uncompressed bytes of a stream."""
    if kind == "gzip":
        return Gunzip(compressed)
    if kind == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        return decompressor.stream_reader(compressed, read_across_frames=True)  # type: ignore[arg-type]
    return compressed


def _feed(
    blob: Extent, layer: Descriptor, diff_id: str, write: Callable[[bytes], object], limit: int, recipe: Path | None
) -> None:
    with (recipe or Path(os.devnull)).open("wb") as output:
        compressed = _Compressed(blob.reader())
        plain = _Unpacked(unpacked(compressed, LAYER_TYPES[layer.media_type]), compressed, limit)
        recorder = Recorder(plain, output)
        rewrite(recorder, write, recorder.content)
        while recorder.read(CHUNK):
            pass
        recorder.finish()
        output.flush()
        if recipe is not None:
            os.fsync(output.fileno())
        while compressed.read(CHUNK):
            pass
    sound = f"sha256:{compressed.digest.hexdigest()}" == layer.digest and compressed.count == layer.size
    if not sound and layer.digest != diff_id:
        raise LayerError("the layer's blob is not what the manifest says", details=f"wanted {layer.digest}")
    if not sound or f"sha256:{plain.digest.hexdigest()}" != diff_id:
        raise LayerError("the layer's content is not what the configuration says", details=f"wanted {diff_id}")


def _pipe(argv: Sequence[str], feed: Callable[[Callable[[bytes], object]], None], scratch: Path) -> None:
    """Run a program that reads what ``feed`` writes; what it cannot keep elsewhere goes to the folder ``scratch``."""
    env = {**ENVIRONMENT, "TMPDIR": str(scratch)}
    with tempfile.TemporaryFile() as output:
        # A group of its own: mkfs.erofs never ends on a tar that is cut short, so whatever stands between is ended too.
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, start_new_session=True
        )
        assert process.stdin is not None  # noqa: S101 - asked for in the line above
        with suppress(OSError):  # the system's limit on pipes
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, CHUNK)
        broken = False
        try:
            feed(process.stdin.write)
            process.stdin.close()
        except BrokenPipeError:
            broken = True
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        status = process.wait()
        output.seek(0)
        if status or broken:
            raise failure(argv, status, output.read())


def convert(
    blob: Path | Extent,
    layer: Descriptor,
    diff_id: str,
    target: Path,
    *,
    make: MakeErofs = make_erofs,
    limit: int = UNPACKED_BYTES,
    protect: bool = True,
) -> Path:
    """Make the EROFS file ``target`` of a layer, in one step; one that is there already is kept.

    Args:
        blob: the layer as the registry gave it.
        layer: its descriptor in the manifest.
        diff_id: digest ``sha256:…`` of its uncompressed tar stream.
        target: the EROFS file.
        make: gives the command that reads a tar stream and writes an EROFS file.
        limit: bytes that it may unpack to.
        protect: give the file fs-verity where there is such, and write beside it what to compare it with later, and how
            its tar is made again.

    Raises:
        LayerError: the layer is not what its digests say, or dangerous.
        NoRoomError: it does not fit.
        CommandError: ``mkfs.erofs`` failed.
    """
    if target.exists():
        return target
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    recipe = temporary.with_suffix(".recipe.tmp")
    try:
        with opened(blob) as extent:

            def feed(write: Callable[[bytes], object]) -> None:
                put = bounded(write, target.parent)
                _feed(extent, layer, diff_id, put, limit, recipe if protect else None)

            _pipe(make(temporary), feed, target.parent)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fchmod(descriptor, HOST_MODE if protect else 0o644)
            os.fsync(descriptor)
            if protect:
                write_file(target.with_suffix(".check"), verity.record(descriptor).encode())
        finally:
            os.close(descriptor)
        if protect:
            recipe.replace(target.with_suffix(".recipe"))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        recipe.unlink(missing_ok=True)
    sync_directory(target.parent)
    return target


def copy_layer(source: Path, target: Path, *, protect: bool = True) -> None:
    """Copy the EROFS file of a layer, in one step; it has no recipe. Arguments as of :func:`convert`."""
    with replacing(target, mode=HOST_MODE) as file, source.open("rb") as whole:
        while data := whole.read(CHUNK):
            file.write(data)
    if protect:
        descriptor = os.open(target, os.O_RDONLY)
        try:
            write_file(target.with_suffix(".check"), verity.record(descriptor).encode())
        finally:
            os.close(descriptor)
