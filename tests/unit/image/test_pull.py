"""A real registry, skopeo and mkfs.erofs: pull, moved tags, wrong digests, archives, collection."""

import gzip
import io
import json
import os
import select
import subprocess
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard
from hostctl_lab.registry import run_registry

from hostctl.config.values import ImageReference
from hostctl.image.archive import import_archive
from hostctl.image.layers import MakeErofs, convert
from hostctl.image.oci import Descriptor
from hostctl.image.pull import PullError, pull, resolve
from hostctl.image.store import ImageStore
from hostctl.image.tarstream import LayerError

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer(text: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("etc/motd")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return out.getvalue()


def layout(folder: Path, text: bytes, *, diff_id: str = "") -> str:
    """Write an OCI layout with one image of one layer; return the manifest's digest."""
    (folder / "blobs/sha256").mkdir(parents=True)

    def put(data: bytes) -> tuple[str, int]:
        name = sha256(data).hexdigest()
        (folder / "blobs/sha256" / name).write_bytes(data)
        return f"sha256:{name}", len(data)

    tar = layer(text)
    config = {"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/bin/x"], "User": "7"}}
    ids = {"rootfs": {"type": "layers", "diff_ids": [diff_id or f"sha256:{sha256(tar).hexdigest()}"]}}
    kinds = ("application/vnd.oci.image.config.v1+json", GZIP, "application/vnd.oci.image.manifest.v1+json")
    blobs = (put(json.dumps(config | ids).encode()), put(gzip.compress(tar, mtime=0)))
    parts = [{"mediaType": kind, "digest": d, "size": n} for kind, (d, n) in zip(kinds, blobs, strict=False)]
    manifest = {"schemaVersion": 2, "mediaType": kinds[2], "config": parts[0], "layers": parts[1:]}
    digest, size = put(json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [{"mediaType": kinds[2], "digest": digest, "size": size}]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return digest


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with run_registry(tmp_path) as running:
        yield running.address


def push(folder: Path, target: str) -> None:
    argv = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{folder}"]
    subprocess.run([*argv, f"docker://{target}"], check=True)


def test_pull_keeps_to_the_digest_when_the_tag_moves(registry: str, tmp_path: Path, make: MakeErofs) -> None:
    first, second = layout(tmp_path / "one", b"one"), layout(tmp_path / "two", b"two")
    reference = ImageReference(f"{registry}/site:1")
    store = ImageStore(tmp_path / "store")
    push(tmp_path / "one", str(reference))
    digest = resolve(reference, insecure=True)
    push(tmp_path / "two", str(reference))
    image = pull(reference, digest, store, insecure=True, make=make)
    assert (digest, image.digest) == (first, first)
    assert image.config.entrypoint == ("/bin/x",)
    assert image.layers[0].read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"
    assert resolve(reference, insecure=True) == second
    assert store.find(reference) == image
    other = ImageReference(f"{registry}/copy:1")
    push(tmp_path / "one", str(other))
    assert pull(other, digest, store, insecure=True, make=make).layers == image.layers
    assert [each.reference for each in store.list()] == [str(other), str(reference)]
    assert list((tmp_path / "store/tmp").iterdir()) == []
    assert len(store.collect({first})) == 0
    assert len(store.collect(set())) == 3
    assert store.list() == ()


def test_missing_digest_and_registry_are_told(registry: str, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="cannot be looked up"):
        resolve(ImageReference(f"{registry}/site@sha256:{'0' * 64}"), insecure=True)
    with pytest.raises(PullError, match="cannot be pulled"):
        pull(ImageReference(f"{registry}/site:1"), f"sha256:{'0' * 64}", ImageStore(tmp_path / "store"), insecure=True)
    assert list((tmp_path / "store/tmp").iterdir()) == []


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
    assert len(list((tmp_path / "store/layers").iterdir())) == 1


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
