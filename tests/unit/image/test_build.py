"""Images are built reproducibly, and an archive that is baked into a release is found there by its name."""

import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest

from hostctl.compose.images import BakedImageError, archive_reference, bake
from hostctl.compose.lock import LockError
from hostctl.compose.packages import Package
from hostctl.compose.sources import tree_id
from hostctl.compose.tools import ToolsRoot
from hostctl.config.decode import decode
from hostctl.config.problems import DeclarationError
from hostctl.image.build import ImageDeclaration, format_lock, load_lock, write_archive
from hostctl.image.rootfs import ImageTreeError, placed, write_layer
from hostctl.image.store import ImageStore

TEXT = """version: 1
name: localhost/site:7
packages: [site]
entrypoint: [/usr/bin/site]
env: [A=b]
user: "1000:1000"
expose: [80/tcp]
"""


def image(text: str = TEXT) -> ImageDeclaration:
    return decode(text, ImageDeclaration, "image.yaml")


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    for path, data in (("lib/site.so", "so"), ("usr/bin/site", "#!"), ("usr/share/man/site.1", "manual")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(data)
    (root / "usr/bin/site-again").hardlink_to(root / "usr/bin/site")
    (root / "DEBIAN").mkdir(mode=0o755)
    control = "Package: site\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: d\n"
    (root / "DEBIAN/control").write_text(control)
    output = tmp_path / "site.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, output], check=True, capture_output=True)
    return output


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "srv").mkdir(parents=True)
    (folder / "srv/page").write_text("page")
    return folder


def build(deb: Path, files: Path, folder: Path) -> Path:
    folder.mkdir()
    write_layer([deb], files, folder / "layer.tar")
    write_archive(image(), folder / "layer.tar", folder / "site.oci.tar")
    return folder / "site.oci.tar"


def test_layer_is_merged_and_without_manuals(deb: Path, files: Path, tmp_path: Path) -> None:
    write_layer([deb], files, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as archive:
        names = archive.getnames()
        assert archive.getmember("lib").linkname == "usr/lib"
        assert archive.getmember("usr/bin/site-again").size == len("#!")
        assert {member.uid for member in archive} == {0}
    assert {"usr/lib/site.so", "srv/page", "etc/passwd"} <= set(names)
    assert not [name for name in names if "man" in name]


def test_two_builds_are_equal(deb: Path, files: Path, tmp_path: Path) -> None:
    first, second = (build(deb, files, tmp_path / name).read_bytes() for name in ("one", "two"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    (files / "srv/page").write_text("another")
    assert build(deb, files, tmp_path / "three").read_bytes() != first


def test_baked_store_finds_the_image_by_its_own_name(
    deb: Path, files: Path, tmp_path: Path, toolbox: ToolsRoot
) -> None:
    archive = build(deb, files, tmp_path / "out")
    for name in ("one", "two"):
        bake([archive], toolbox, tmp_path / name)
    assert tree_id(tmp_path / "one") == tree_id(tmp_path / "two")
    found = ImageStore(None, tmp_path / "one").find(image().name)
    assert found is not None
    assert (found.reference, found.config.user) == ("localhost/site:7", "1000:1000")
    assert found.config.entrypoint == ("/usr/bin/site",)


def test_two_archives_of_one_name_are_refused(deb: Path, files: Path, tmp_path: Path, toolbox: ToolsRoot) -> None:
    archive = build(deb, files, tmp_path / "out")
    with pytest.raises(BakedImageError):
        bake([archive, archive], toolbox, tmp_path / "store")


def test_archive_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    with pytest.raises(BakedImageError):
        archive_reference(tmp_path / "junk")


@pytest.mark.parametrize("path", ["/etc/passwd", "../etc/passwd", "a/../../b"])
def test_paths_outside_are_refused(path: str) -> None:
    with pytest.raises(ImageTreeError):
        placed(path)


def test_every_wrong_setting_has_its_line() -> None:
    with pytest.raises(DeclarationError) as caught:
        image(TEXT.replace("A=b", "A").replace("80/tcp", "80").replace('"1000:1000"', "www-data"))
    assert {problem.line for problem in caught.value.problems} == {5, 6, 7}


def test_lock_of_other_packages_is_refused(tmp_path: Path) -> None:
    package = Package(name="site", version="1", architecture="amd64", sha256="0" * 64, size=1, url="http://a/b")
    lock = tmp_path / "image.lock"
    lock.write_bytes(format_lock(image(), (package,)))
    assert load_lock(lock, image()) == (package,)
    with pytest.raises(LockError):
        load_lock(lock, image(TEXT.replace("[site]", "[other]")))
