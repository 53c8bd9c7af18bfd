"""An image of another one and one layer more: the same each time, found by its name, and whole without the release."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest
from hostctl_lab.images import digest_of, layer, layout

from hostctl.errors import UsageError
from hostctl.image import commit
from hostctl.image.archive import load_stream
from hostctl.image.commit import Layer, Words
from hostctl.image.details import details
from hostctl.image.export import save_stream
from hostctl.image.layers import MakeErofs
from hostctl.image.oci import LAYERS, Descriptor, ImageFormatError, Manifest, parse_config, parse_manifest
from hostctl.image.room import NoRoomError
from hostctl.image.store import ImageStore, StoredImage
from hostctl.workload.upper import pack

WORDS = Words(message="with motd", author="ops <ops@example.org>")


def _plain(output: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"cat >{output}")


def added(folder: Path, text: bytes = b"committed") -> Layer:
    """Return a layer with one file."""
    tar = layer(text)
    path = folder / f"{len(list(folder.iterdir()))}.tar"
    path.write_bytes(tar)
    return Layer(path=path, diff_id=digest_of(tar), size=len(tar), changed=1_700_000_000)


def base(folder: Path, *, docker: bool = False, baked: bool = False, limit: int | None = None) -> ImageStore:
    """Return a store with one image, ``r.example/box:1``."""
    digest = layout(folder / "box", b"base", docker=docker)
    store = ImageStore(folder / "store", folder / "baked", limit=limit)
    to = ImageStore(folder / "baked", protect=False) if baked else store
    to.add(folder / "box", digest, "r.example/box:1", make=_plain)
    return store


def made(store: ImageStore, folder: Path, what: Layer | None, name: str | None = "r.example/box:2") -> StoredImage:
    """Commit."""
    scratch = folder / f"scratch-{len(list(folder.iterdir()))}"
    scratch.mkdir()
    (image,) = [image for image in store.list() if image.reference == "r.example/box:1"]
    return commit.commit(store, image, what, name, WORDS, scratch, make=_plain)


@pytest.mark.parametrize("docker", [False, True])
def test_it_has_the_layers_and_the_configuration_of_its_base(tmp_path: Path, docker: bool) -> None:
    store = base(tmp_path, docker=docker)
    new = added(tmp_path)
    image = made(store, tmp_path, new)
    (below,) = [each for each in store.list() if each.reference == "r.example/box:1"]
    assert image.config.diff_ids == (*below.config.diff_ids, new.diff_id)
    assert image.layers[:-1] == below.layers
    assert (image.config.entrypoint, image.config.user) == (("/bin/x",), "7")
    assert {each.reference: each.id for each in store.list()} == {
        "r.example/box:1": below.id,
        "r.example/box:2": image.id,
    }
    known = details(store, image)
    assert (known.created, known.author) == ("2023-11-14T22:13:20Z", WORDS.author)
    assert [(step.created_by, step.comment) for step in known.history] == [
        ("COPY x", ""),
        ("hostctl commit", "with motd"),
    ]
    manifest = json.loads(store.documents(image.digest)[0])
    assert {entry["mediaType"].rpartition(".v1")[0] for entry in manifest["layers"]} == {
        "application/vnd.oci.image.layer"
    }


def test_the_same_files_and_words_are_the_same_image(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    ids = [made(base(tmp_path / name), tmp_path / name, added(tmp_path / name)).digest for name in ("one", "two")]
    assert ids[0] == ids[1]


def test_nothing_new_is_a_step_without_a_layer(tmp_path: Path) -> None:
    store = base(tmp_path)
    image = made(store, tmp_path, None, None)
    assert (image.reference, len(image.layers)) == ("", 1)
    known = details(store, image)
    assert (known.created, known.history[-1].size) == ("2026-01-02T03:04:05Z", 0)


def test_what_came_with_the_release_stays_when_that_goes(tmp_path: Path) -> None:
    store = base(tmp_path, baked=True)
    image = made(store, tmp_path, added(tmp_path))
    alone = ImageStore(tmp_path / "store")
    assert [each.digest for each in alone.list()] == [image.digest]
    assert all(path.with_suffix(".check").is_file() for path in alone.list()[0].layers)
    alone.collect([image.digest])
    assert [each.digest for each in alone.list()] == [image.digest]


def test_a_configuration_without_a_history_keeps_its_layers_apart(tmp_path: Path) -> None:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(b"")] * 2}}
    new = added(tmp_path)
    document = json.loads(commit.configuration(json.dumps(config).encode(), new, Words()))
    assert document["history"] == [{}, {}, {"created": "2023-11-14T22:13:20Z", "created_by": "hostctl commit"}]
    assert parse_config(json.dumps(document).encode()).diff_ids[-1] == new.diff_id


def test_limits_are_those_of_other_images(tmp_path: Path) -> None:
    one = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=digest_of(b""), size=0)
    full = Manifest(config=one, layers=(one,) * LAYERS)
    with pytest.raises(ImageFormatError, match="more than 127 layers"):
        commit.manifest(full, b"{}", added(tmp_path))
    assert len(parse_manifest(commit.manifest(full, b"{}", None)).layers) == LAYERS
    with pytest.raises(UsageError):
        Words(message="x" * 2000)
    with pytest.raises(UsageError):
        Words(author="\x1b[31m")
    store = base(tmp_path)
    store.limit = 4096
    with pytest.raises(NoRoomError):
        made(store, tmp_path, added(tmp_path, b"x" * 100_000))
    assert [image.reference for image in store.list()] == ["r.example/box:1"]


def test_times_are_those_that_can_be_written() -> None:
    for seconds, text in ((-5, "1970-01-01T00:00:00Z"), (1 << 60, "9999-12-31T23:59:59Z")):
        what = Layer(path=Path("x"), diff_id=digest_of(b""), size=0, changed=seconds)
        config = {"rootfs": {"diff_ids": []}, "history": []}
        assert json.loads(commit.configuration(json.dumps(config).encode(), what, Words()))["created"] == text


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are devices, and owners are others")
def test_what_a_workload_wrote_goes_out_and_comes_in_again_as_the_same_image(tmp_path: Path, make: MakeErofs) -> None:
    store, first = ImageStore(tmp_path / "store"), 0x10000000
    image = store.add(tmp_path / "box", layout(tmp_path / "box", b"base" * 100), "r.example/box:1", make=make)
    folder = tmp_path / "upper"
    (folder / "etc/new").mkdir(parents=True)
    (folder / "etc/new/big").write_bytes(bytes(range(256)) * 40)
    (folder / "etc/new/same").hardlink_to(folder / "etc/new/big")
    (folder / "link").symlink_to("etc/new")
    os.mknod(folder / "etc/motd", stat.S_IFCHR)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, first + 3, first, follow_symlinks=False)
    descriptor = os.open(folder, os.O_RDONLY)
    with (tmp_path / "layer.tar").open("wb") as out:
        packed = pack(descriptor, first, out, limit=1 << 20)
    os.close(descriptor)
    new = Layer(path=tmp_path / "layer.tar", diff_id=packed.diff_id, size=packed.size, changed=packed.newest)
    made = commit.commit(store, image, new, "r.example/box:2", WORDS, tmp_path / "scratch", make=make)
    archive = io.BytesIO()
    save_stream(store, [(made, ["r.example/box:2"])], archive)
    archive.seek(0)
    (again,) = load_stream(archive, ImageStore(tmp_path / "other"), make=make)
    assert (again.id, again.reference) == (made.id, "r.example/box:2")
    assert details(store, made).history[-1].comment == WORDS.message
