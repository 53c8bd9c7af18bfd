"""Layers and archives, with mkfs.erofs: compressions, bombs, wrong digests."""

import gzip
import os
import random
import select
import tarfile
from hashlib import file_digest, sha256
from pathlib import Path

import pytest
import zstandard
from hostctl_lab.images import GZIP, layer, layout

from hostctl.config.values import ImageReference
from hostctl.image import room
from hostctl.image.archive import import_archive
from hostctl.image.layers import MakeErofs, convert, copy_layer
from hostctl.image.oci import Descriptor, ImageFormatError
from hostctl.image.store import ImageStore
from hostctl.image.tarstream import LayerError


def test_archive_is_imported_and_wrong_content_leaves_nothing(tmp_path: Path, make: MakeErofs) -> None:
    digest = layout(tmp_path / "good", b"good")
    with tarfile.open(tmp_path / "good.tar", "w") as tar:
        tar.add(tmp_path / "good", ".")
    store = ImageStore(tmp_path / "store")
    assert import_archive(tmp_path / "good.tar", ImageReference("a.example/b:1"), store, make=make).digest == digest
    bad = layout(tmp_path / "bad", b"bad", diff_id=f"sha256:{'1' * 64}")
    with pytest.raises(LayerError, match="configuration says"):
        import_archive(tmp_path / "bad", None, store, make=make)
    assert store.get(bad) is None
    assert len(list((tmp_path / "store/layers").iterdir())) == 3
    assert {path.suffix for path in (tmp_path / "store/layers").iterdir()} == {".erofs", ".check", ".recipe"}


def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path, make: MakeErofs) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageFormatError, match="no OCI layout"):
        import_archive(tmp_path / "folder", None, ImageStore(tmp_path / "store"), make=make)


def test_bomb_is_stopped_and_leaves_nothing(tmp_path: Path, make: MakeErofs) -> None:
    data = gzip.compress(layer(b"\0" * 3_000_000))
    (tmp_path / "blob").write_bytes(data)
    descriptor = Descriptor(media_type=GZIP, digest=f"sha256:{sha256(data).hexdigest()}", size=len(data))
    with pytest.raises(LayerError, match="unpacks to more"):
        convert(tmp_path / "blob", descriptor, f"sha256:{'2' * 64}", tmp_path / "x.erofs", make=make, limit=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_refusing_a_layer_ends_whatever_the_program_started(tmp_path: Path) -> None:
    data = gzip.compress(layer(b"\0" * 3_000_000))
    (tmp_path / "blob").write_bytes(data)
    descriptor = Descriptor(media_type=GZIP, digest=f"sha256:{sha256(data).hexdigest()}", size=len(data))
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    argv = ["sh", "-c", f"exec 3> {tmp_path}/alive; sleep 300 & cat > /dev/null; wait"]
    with pytest.raises(LayerError, match="unpacks to more"):
        # More than a pipe holds is written before the limit, so the program has begun by then.
        convert(tmp_path / "blob", descriptor, "sha256:0", tmp_path / "x.erofs", make=lambda _: argv, limit=2 << 20)
    ended, _, _ = select.select([alive], [], [], 30)
    os.close(alive)
    assert ended, "what the program started still runs"


@pytest.mark.parametrize("kind", ["", "+gzip", "+zstd"])
def test_every_compression_gives_the_same_file(tmp_path: Path, kind: str, make: MakeErofs) -> None:
    tar = layer(b"same")
    data = {"": tar, "+gzip": gzip.compress(tar), "+zstd": zstandard.ZstdCompressor().compress(tar)}[kind]
    (tmp_path / "blob").write_bytes(data)
    media_type = f"application/vnd.oci.image.layer.v1.tar{kind}"
    descriptor = Descriptor(media_type=media_type, digest=f"sha256:{sha256(data).hexdigest()}", size=len(data))
    diff_id = f"sha256:{sha256(tar).hexdigest()}"
    made = convert(tmp_path / "blob", descriptor, diff_id, tmp_path / "a.erofs", make=make).read_bytes()
    (tmp_path / "plain").write_bytes(tar)
    plain = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=diff_id, size=len(tar))
    assert convert(tmp_path / "plain", plain, diff_id, tmp_path / "b.erofs", make=make).read_bytes() == made


def test_on_a_host_a_layer_is_root_s_alone_and_in_a_release_everybody_s(tmp_path: Path, make: MakeErofs) -> None:
    tar = layer(b"same")
    (tmp_path / "blob").write_bytes(tar)
    diff_id = f"sha256:{sha256(tar).hexdigest()}"
    plain = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=diff_id, size=len(tar))
    host = convert(tmp_path / "blob", plain, diff_id, tmp_path / "host.erofs", make=make)
    release = convert(tmp_path / "blob", plain, diff_id, tmp_path / "release.erofs", make=make, protect=False)
    copy_layer(release, tmp_path / "copy.erofs")
    modes = [path.stat().st_mode & 0o777 for path in (host, tmp_path / "copy.erofs", release)]
    assert modes == [0o600, 0o600, 0o644]


def test_a_frame_that_wants_much_memory_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = stream.compress(layer(b"x")) + stream.flush()
    (tmp_path / "blob").write_bytes(data)
    media_type = "application/vnd.oci.image.layer.v1.tar+zstd"
    descriptor = Descriptor(media_type=media_type, digest=f"sha256:{sha256(data).hexdigest()}", size=len(data))
    with pytest.raises(LayerError, match="cannot be decompressed"):
        convert(tmp_path / "blob", descriptor, "sha256:0", tmp_path / "x.erofs", make=lambda path: ("tee", str(path)))
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_a_layer_is_refused_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = layer(b"x" * 20_000_000)
    (tmp_path / "blob").write_bytes(data)
    kind, digest = "application/vnd.oci.image.layer.v1.tar", f"sha256:{sha256(data).hexdigest()}"
    descriptor = Descriptor(media_type=kind, digest=digest, size=len(data))
    monkeypatch.setattr(room, "MARGIN", 1 << 62)
    with pytest.raises(room.NoRoomError, match="does not fit"):
        convert(tmp_path / "blob", descriptor, digest, tmp_path / "x.erofs", make=lambda path: ("tee", str(path)))
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_a_layer_gives_the_same_bytes_every_time_in_little_memory(tmp_path: Path, make: MakeErofs) -> None:
    noise = random.Random(0).randbytes(8 << 20)  # noqa: S311 - no secret, and the same every time
    data = layer(b"".join(noise[at : at + 6000] + bytes(2000) for at in range(0, 8 << 20, 6000)) * 20)
    (tmp_path / "blob").write_bytes(data)
    kind, digest = "application/vnd.oci.image.layer.v1.tar", f"sha256:{sha256(data).hexdigest()}"
    descriptor = Descriptor(media_type=kind, digest=digest, size=len(data))

    def bounded(path: Path) -> tuple[str, ...]:
        return ("prlimit", f"--as={150 << 20}", *make(path))

    made = [
        convert(tmp_path / "blob", descriptor, digest, tmp_path / name, make=command).stat().st_size
        for name, command in (("a.erofs", bounded), ("b.erofs", make))
    ]
    assert 150 << 20 < made[0] < 0.8 * len(data)
    with (tmp_path / "a.erofs").open("rb") as first, (tmp_path / "b.erofs").open("rb") as second:
        assert file_digest(first, "sha256").digest() == file_digest(second, "sha256").digest()
