"""Archives of images: what Docker and OCI tools write comes in, and what was made to harm does not."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from hostctl_lab.images import digest_of, layer, layout, pack_zstd, plain

from hostctl.image.archive import load_stream
from hostctl.image.layers import MakeErofs
from hostctl.image.oci import ImageFormatError
from hostctl.image.store import ImageStore, StoredImage
from hostctl.image.tarstream import LayerError

Link = tuple[bytes, str]
HEX = "a" * 64


def pack(files: Mapping[str, bytes | Link]) -> bytes:
    """Return a tar of files, and of links given as type and target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                tar.addfile(info)
    return out.getvalue()


def folder(path: Path) -> dict[str, bytes | Link]:
    """Return the files below a folder."""
    return {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


def saved(*texts: bytes, names: object = ("site:1",), **changed: object) -> dict[str, bytes | Link]:
    """Return the files of ``docker save`` as Docker wrote them up to version 24."""
    tars = [layer(text) for text in texts]
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
    config_name = f"{sha256(config).hexdigest()}.json"
    paths = [f"{sha256(tar + b'%d' % at).hexdigest()}/layer.tar" for at, tar in enumerate(tars)]
    entry = {"Config": config_name, "RepoTags": names, "Layers": paths} | changed
    return {
        **dict(zip(paths, tars, strict=True)),
        config_name: config,
        "repositories": b"{}",
        "manifest.json": json.dumps([entry]).encode(),
    }


@pytest.fixture(params=["file", "stream"])
def load(request: pytest.FixtureRequest, tmp_path: Path, make: MakeErofs) -> Callable[[bytes], tuple[StoredImage, ...]]:
    """Return what loads an archive into a store, from a file or a stream, and looks that nothing is left over."""

    def run(data: bytes) -> tuple[StoredImage, ...]:
        store = ImageStore(tmp_path / "store")
        try:
            if request.param == "stream":
                return load_stream(io.BytesIO(data), store, make=make)
            (tmp_path / "archive").write_bytes(b"before" + data)
            with (tmp_path / "archive").open("rb") as file:
                file.seek(len(b"before"))
                return load_stream(file, store, make=make)
        finally:
            assert not list((tmp_path / "store/tmp").iterdir())

    return run


Load = Callable[[bytes], tuple[StoredImage, ...]]


@pytest.mark.parametrize("compress", [plain, gzip.compress, pack_zstd])
def test_an_archive_of_docker_comes_in(load: Load, compress: Callable[[bytes], bytes]) -> None:
    (image,) = load(compress(pack(saved(b"one", b"two"))))
    assert image.reference == "docker.io/library/site:1"
    assert len(image.layers) == 2
    again = load(pack(saved(b"one", b"two", names=["a.example/x:1", "site:1"])))
    assert [each.reference for each in again] == ["a.example/x:1", "docker.io/library/site:1"]
    assert {each.digest for each in again} == {image.digest}


def test_a_layer_may_be_a_link_to_another_within_the_archive(load: Load) -> None:
    files = saved(b"same", b"same")
    first, second, *_ = files
    files[second] = (tarfile.SYMTYPE, f"../{first}")
    (image,) = load(pack(files))
    assert image.layers[0] == image.layers[1]
    files[second] = (tarfile.LNKTYPE, first)
    assert load(pack(files))[0].digest == image.digest


def test_every_image_of_an_oci_archive_comes_in_under_its_name(load: Load, tmp_path: Path) -> None:
    entries = []
    files: dict[str, bytes | Link] = {}
    for name, notes in (
        ("one", {"io.containerd.image.name": "docker.io/library/one:1", "org.opencontainers.image.ref.name": "1"}),
        ("two", {"org.opencontainers.image.ref.name": "r.example/two:2"}),
        ("three", {"org.opencontainers.image.ref.name": "latest"}),
    ):
        layout(tmp_path / name, name.encode(), platforms=[{"os": "linux", "architecture": "amd64"}])
        files |= folder(tmp_path / name)
        entries.append(
            {**json.loads((tmp_path / name / "index.json").read_text())["manifests"][0], "annotations": notes}
        )
    index = {"schemaVersion": 2, "manifests": entries}
    images = load(pack(files | {"index.json": json.dumps(index).encode(), "manifest.json": b"not looked at"}))
    assert [each.reference for each in images] == ["docker.io/library/one:1", "r.example/two:2", ""]


def _header(**fields: object) -> bytes:
    info = tarfile.TarInfo("x")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no archive"),
        (b"junk" * 1000, "no archive"),
        (gzip.compress(b"junk" * 1000), "no archive"),
        (gzip.compress(pack(saved(b"a")))[:-300], "no archive"),
        (_header(type=tarfile.GNUTYPE_LONGNAME, size=1 << 33), "no archive"),
        (_header(type=tarfile.XHDTYPE, size=1 << 33), "no archive"),
        (_header(size=1 << 50, name="index.json"), "more than"),
        (pack({"index.json": b'{"manifests": []}'}), "no image"),
        (pack({"manifest.json": b"[]"}), "no image"),
        (pack({"manifest.json": b"{}"}), "no list"),
        (pack({"other": b""}), "no 'manifest.json'"),
        (pack({"manifest.json": (tarfile.SYMTYPE, "manifest.json")}), "no 'manifest.json'"),
        (pack({"manifest.json": (tarfile.SYMTYPE, "/etc/passwd")}), "no '/etc/passwd'"),
        (pack({"index.json": b" " * ((4 << 20) + 1)}), "more than"),
        (pack(saved(b"a", Layers=["../../etc/shadow"])), "no '../../etc/shadow'"),
        (pack(saved(b"a", Layers=[f"{HEX}/layer.tar"])), "no 'aaa"),
        (pack(saved(b"a", Layers=[f"{HEX}.json"] * 128)), "at most 127"),
        (pack(saved(b"a", Config="/etc/passwd")), "no '/etc/passwd'"),
        (pack(saved(b"a", Config=7)), "no text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_archive_is_refused(load: Load, data: bytes, says: str) -> None:
    with pytest.raises(ImageFormatError) as caught:
        load(data)
    assert says in f"{caught.value.brief} {caught.value.details}"


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(load: Load) -> None:
    files = saved(b"one")
    path = next(iter(files))
    with pytest.raises(LayerError, match="configuration says"):
        load(pack({**files, path: layer(b"other")}))


def test_an_archive_with_too_many_members_is_refused(load: Load) -> None:
    with pytest.raises(ImageFormatError, match="more than 4096"):
        load(pack({f"member-{number}": b"" for number in range(4097)}))


def test_what_lies_in_a_file_is_not_copied_out_of_it(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    copies: list[list[str]] = []

    def make(output: Path) -> tuple[str, ...]:
        files = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        copies.append([path for path in files if path.startswith(str(tmp_path / "store/tmp"))])
        return ("dd", "status=none", f"of={output}")

    (tmp_path / "plain").write_bytes(pack(saved(b"one")))
    (tmp_path / "packed").write_bytes(gzip.compress(pack(saved(b"two"))))
    for name in ("plain", "packed"):
        with (tmp_path / name).open("rb") as file:
            load_stream(file, store, make=make)
    assert [len(each) for each in copies] == [0, 1]


def test_a_file_that_changes_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    """Whatever was looked at before, what counts is what was digested on the way into the layer."""
    archive = tmp_path / "archive"
    archive.write_bytes(pack(saved(b"one" * 1_000_000)))
    whole = archive.read_bytes()
    at = whole.index(b"one" * 100) + 2_900_000

    def make(output: Path) -> tuple[str, ...]:
        with archive.open("r+b") as file:
            file.seek(at)
            file.write(b"two")
        return ("dd", "status=none", f"of={output}")

    store = ImageStore(tmp_path / "store")
    with archive.open("rb") as file, pytest.raises(LayerError, match="configuration says"):
        load_stream(file, store, make=make)
    assert store.list() == ()
    assert list((tmp_path / "store/layers").iterdir()) == []
    archive.write_bytes(whole)

    def cut(output: Path) -> tuple[str, ...]:
        os.truncate(archive, at)
        return ("dd", "status=none", f"of={output}")

    with archive.open("rb") as file, pytest.raises(LayerError, match="cut off"):
        load_stream(file, store, make=cut)
    assert list((tmp_path / "store/layers").iterdir()) == []
