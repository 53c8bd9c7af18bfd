"""Images leave the store with the layers that they came with: rebuilt, saved, pushed, and taken in again."""

import io
import json
import mmap
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostctl_lab.images import digest_of, layer, layout

from hostctl.config.values import ImageReference
from hostctl.image import export
from hostctl.image.archive import load_stream
from hostctl.image.export import save_stream
from hostctl.image.layers import MakeErofs
from hostctl.image.rebuild import rebuild
from hostctl.image.recipe import RecipeError
from hostctl.image.registry import Access
from hostctl.image.store import ImageStore
from hostctl.payload.erofs import Files
from tests.unit.image.conftest import PLAIN, Puller


def content(name: str, size: int) -> bytes:
    """Return what can be compressed well, not at all, or here and there."""
    even, noise = bytes(at * 7 % 251 for at in range(min(size, 300_000))), random.Random(name).randbytes(size)  # noqa: S311 - no secret
    if name == "./noise":
        return noise
    if name == "./mixed":
        return b"".join(noise[at : at + at % 977] + even[: 7000 - at % 977] for at in range(0, size, 7000))[:size]
    return (even * 4)[:size]


def rich(form: int) -> bytes:
    """Return a layer with everything that one may have."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, link, size in (
            ("./", tarfile.DIRTYPE, "", 0),
            ("./usr/", tarfile.DIRTYPE, "", 0),
            ("./usr/small", tarfile.REGTYPE, "", 20),
            ("./usr/zz-first", tarfile.REGTYPE, "", 5000),
            ("./usr/aa-again", tarfile.LNKTYPE, "./usr/zz-first", 0),
            ("./usr/" + "long" * 40, tarfile.REGTYPE, "", 300_000),
            ("./link", tarfile.SYMTYPE, "usr/small", 0),
            ("./usr/.wh.gone", tarfile.REGTYPE, "", 0),
            ("./opaque/.wh..wh..opq", tarfile.REGTYPE, "", 0),
            ("./empty", tarfile.REGTYPE, "", 0),
            ("./pipe", tarfile.FIFOTYPE, "", 0),
            ("./noise", tarfile.REGTYPE, "", 500_000),
            ("./mixed", tarfile.REGTYPE, "", 3_000_001),
            ("./block", tarfile.REGTYPE, "", 4096),
            ("./blocks", tarfile.REGTYPE, "", 1 << 20),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode, info.mtime = kind, link, size, 0o4755, 1_700_000_000
            info.uname = "somebody"
            tar.addfile(info, io.BytesIO(content(name, size)))
    return out.getvalue() + bytes(4096)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("kind", ["make", "make_uncompressed"])
def test_the_very_tar_comes_out_again(tmp_path: Path, request: pytest.FixtureRequest, form: int, kind: str) -> None:
    tar = rich(form)
    digest = layout(tmp_path / "site", tars=[tar])
    image = ImageStore(tmp_path / "store").add(tmp_path / "site", digest, None, make=request.getfixturevalue(kind))
    out = io.BytesIO()
    rebuild(image.layers[0], image.layers[0].with_suffix(".recipe"), digest_of(tar), out.write)
    assert out.getvalue() == tar
    assert image.layers[0].with_suffix(".recipe").stat().st_size < len(tar) // 100
    assert (image.layers[0].stat().st_size < 0.6 * len(tar)) == (kind == "make")


def test_a_damaged_layer_is_refused_wherever_it_is_damaged(tmp_path: Path, make: MakeErofs) -> None:
    """Nothing that a file says of itself leads to another error, to much memory or to no end."""
    tar = rich(tarfile.GNU_FORMAT)
    image = ImageStore(tmp_path / "store").add(
        tmp_path / "site", layout(tmp_path / "site", tars=[tar]), None, make=make
    )
    whole, recipe = image.layers[0].read_bytes(), image.layers[0].with_suffix(".recipe")
    with image.layers[0].open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        packed = [each for path in ("mixed", "blocks") for each in Files(mapped).pieces(path) if each.packed]
    assert packed, "nothing is compressed"
    metadata = max(each.offset + each.stored for each in packed)
    for seed in range(300):
        damage = random.Random(seed)  # noqa: S311 - no secret
        damaged = bytearray(whole)
        for _ in range(damage.choice((1, 4, 64))):
            place = damage.choice(
                (damage.randrange(1024, 1152), damage.randrange(metadata, len(whole)), packed[0].offset)
            )
            damaged[place] = damage.randrange(256)
        image.layers[0].write_bytes(damaged)
        out = io.BytesIO()
        try:
            rebuild(image.layers[0], recipe, digest_of(tar), out.write)
        except RecipeError:
            continue
        assert out.getvalue() == tar


def test_a_file_that_stands_twice_cannot_be_made_again_and_says_so(tmp_path: Path, make: MakeErofs) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for text in (b"one" * 1000, b"two" * 1000):
            info = tarfile.TarInfo("file")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text))
    tar = out.getvalue()
    digest = layout(tmp_path / "site", tars=[tar])
    image = ImageStore(tmp_path / "store").add(tmp_path / "site", digest, None, make=make)
    with pytest.raises(RecipeError, match="cannot be made again"):
        rebuild(image.layers[0], image.layers[0].with_suffix(".recipe"), digest_of(tar), lambda _: None)


def test_damage_is_seen(tmp_path: Path, make: MakeErofs) -> None:
    tar = layer(b"text" * 1000)
    digest = layout(tmp_path / "site", tars=[tar])
    image = ImageStore(tmp_path / "store").add(tmp_path / "site", digest, None, make=make)
    recipe = image.layers[0].with_suffix(".recipe")
    whole = recipe.read_bytes()
    for damaged in (b"", whole[:-5], whole[:30] + b"x" + whole[31:], b"junk"):
        recipe.write_bytes(damaged)
        with pytest.raises(RecipeError):
            rebuild(image.layers[0], recipe, digest_of(tar), lambda _: None)


def test_an_archive_is_read_by_docker_tools_and_by_ours(tmp_path: Path, make: MakeErofs) -> None:
    digest = layout(tmp_path / "site", b"one" * 500, b"two")
    store = ImageStore(tmp_path / "store")
    image = store.add(tmp_path / "site", digest, "docker.io/library/site:1", make=make)
    with (tmp_path / "saved.tar").open("wb") as file:
        save_stream(store, [(image, ["docker.io/library/site:1", "r.example/x:2"])], file)
    for source in ("docker-archive:{}:site:1", "docker-archive:{}:r.example/x:2"):
        where = source.format(tmp_path / "saved.tar")
        said = subprocess.run(["skopeo", "inspect", "--raw", where], check=True, capture_output=True).stdout
        assert json.loads(said)["config"]["digest"] == image.id
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "saved.tar", "-C", tmp_path / "unpacked"], check=True)
    argv = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/unpacked:1", f"oci:{tmp_path}/copied"]
    subprocess.run(argv, check=True)
    other = ImageStore(tmp_path / "other")
    again = load_stream((tmp_path / "saved.tar").open("rb"), other, make=make)
    assert [each.reference for each in again] == ["docker.io/library/site:1", "r.example/x:2"]
    assert {each.id for each in again} == {image.id}
    assert [path.read_bytes() for path in again[0].layers] == [path.read_bytes() for path in image.layers]


def test_an_image_is_pushed_and_pulled_with_the_same_id(
    registry: str, push: Callable[..., None], puller: Puller, tmp_path: Path
) -> None:
    layout(tmp_path / "site", b"one" * 500, b"two", compression="zstd")
    site, copy = ImageReference(f"{registry}/site:1"), ImageReference(f"{registry}/team/copy:2")
    push(tmp_path / "site", site)
    image = puller.pull(site)
    digest = export.push(puller.store, image, copy, access=PLAIN, skopeo=puller.skopeo)
    puller.store = ImageStore(tmp_path / "empty")
    again = puller.pull(copy)
    assert (again.digest, again.id) == (digest, image.id)
    assert [path.read_bytes() for path in again.layers] == [path.read_bytes() for path in image.layers]
    assert not list((tmp_path / "store/tmp").iterdir())


def test_what_came_with_the_release_has_no_recipe(tmp_path: Path, make: MakeErofs) -> None:
    digest = layout(tmp_path / "site", b"one")
    store = ImageStore(tmp_path / "store", protect=False)
    image = store.add(tmp_path / "site", digest, None, make=make)
    with pytest.raises(RecipeError, match="no recipe"):
        export.push(store, image, ImageReference("r.example/x:1"), access=Access())
    with pytest.raises(RecipeError, match="no recipe"):
        save_stream(store, [(image, [])], io.BytesIO())
