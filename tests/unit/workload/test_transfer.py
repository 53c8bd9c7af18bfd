"""Trees as tar streams: what comes out of them and goes into them again."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from hostctl.workload import packing
from hostctl.workload.beneath import MAX_DEPTH, TransferError, split
from hostctl.workload.packing import Packer
from hostctl.workload.unpacking import Unpacker, place


def opened(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY)


def pack(root: Path, path: str, name: str, **options: bool) -> bytes:
    out = io.BytesIO()
    packer = Packer(out, **options)
    packer.add(opened(root), path, name)
    packer.close()
    return out.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "srv/deep/er").mkdir(parents=True)
    (root / "srv/file").write_bytes(b"content")
    (root / "srv/file").chmod(0o4751)
    (root / "srv/link").symlink_to("/etc/passwd")
    os.link(root / "srv/file", root / "srv/deep/same")
    os.mkfifo(root / "srv/pipe")
    (root / "srv/deep/er/ümlaut \udcff").write_text("odd name")
    (root / "way").symlink_to("srv")
    os.utime(root / "srv/deep", (5, 5))
    return root


def test_a_tree_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    data = pack(tree, "/srv", "srv")
    target = tmp_path / "target"
    target.mkdir()
    unpacker = Unpacker(opened(target))
    unpacker.unpack(io.BytesIO(data))
    assert unpacker.files == 8
    assert (target / "srv/file").stat().st_mode & 0o7777 == 0o4751
    assert (target / "srv/link").readlink() == Path("/etc/passwd")
    assert (target / "srv/deep/same").stat().st_ino == (target / "srv/file").stat().st_ino
    assert (target / "srv/pipe").is_fifo()
    assert (target / "srv/deep").stat().st_mtime == 5
    assert (target / "srv/deep/er/ümlaut \udcff").read_text() == "odd name"
    assert pack(target, "srv", "srv") == data
    unpacker = Unpacker(opened(target))
    unpacker.unpack(io.BytesIO(data))  # over what is there


def test_tar_reads_what_is_packed(tree: Path) -> None:
    listing = subprocess.run(["tar", "-t"], input=pack(tree, "srv", "."), capture_output=True, check=True).stdout
    assert b"./deep/same\n" in listing


def test_a_link_is_followed_on_the_way_and_never_at_the_end(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(tree, "way/file", "file"))) as archive:
        assert archive.getnames() == ["file"]
    with tarfile.open(fileobj=io.BytesIO(pack(tree, "way", "way"))) as archive:
        assert archive.getmember("way").issym()


def test_a_link_at_the_end_is_followed_on_request_and_never_out_of_the_root(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    (tree / "up").symlink_to("../../../../../outside")
    (tree / "absolute").symlink_to("/srv/file")
    (tree / "outside").write_text("inside")

    def packed(path: str, name: str) -> dict[str, bytes]:
        out = io.BytesIO()
        packer = Packer(out)
        packer.add(opened(tree), path, name, follow=True)
        packer.close()
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
            found = [(info.name, archive.extractfile(info) if info.isreg() else None) for info in archive]
            return {name: file.read() if file else b"" for name, file in found}

    assert packed("absolute", "absolute") == {"absolute": b"content"}
    assert packed("up", "up") == {"up": b"inside"}
    assert set(packed("way", "way")) >= {"way", "way/file", "way/link", "way/deep/same"}
    assert packed("srv/file", "file") == {"file": b"content"}
    with pytest.raises(FileNotFoundError):
        packed("srv/link", "link")


@pytest.mark.parametrize("end", ["/", "/."])
def test_what_ends_in_a_slash_is_a_folder_and_followed_within_the_root(tree: Path, tmp_path: Path, end: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tree / "up").symlink_to("../../../../../outside")
    (tree / "absolute").symlink_to("/srv")
    for path in ("way", "absolute", "srv"):
        with tarfile.open(fileobj=io.BytesIO(pack(tree, path + end, "x"))) as archive:
            assert archive.getmember("x").isdir()
            assert {"x/file", "x/deep/same"} <= set(archive.getnames())
    with pytest.raises(FileNotFoundError):
        pack(tree, f"up{end}", "x")
    with pytest.raises(NotADirectoryError):
        pack(tree, f"srv/file{end}", "x")


def test_what_is_called_as_the_folder_and_is_none_is_told_as_left_out(tree: Path, tmp_path: Path) -> None:
    unpacker = Unpacker(opened(tmp_path), itself=True)
    unpacker.unpack(io.BytesIO(pack(tree, "srv/link", ".")))
    assert unpacker.skipped == ["."]


def test_what_only_a_host_would_grant_is_left_out(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    Unpacker(opened(target), harmless=True, rename="new").unpack(io.BytesIO(pack(tree, "srv/file", "file")))
    assert (target / "new").stat().st_mode & 0o7777 == 0o751


@pytest.mark.parametrize(
    ("target", "made"),
    [("there", "there/file"), ("there/", "there/file"), ("new", "new"), ("there/new", "there/new"), ("old", "old")],
)
def test_names_are_as_with_cp(tree: Path, tmp_path: Path, target: str, made: str) -> None:
    root = tmp_path / "target"
    (root / "there").mkdir(parents=True)
    (root / "old").write_text("is replaced")
    folder, rename, _ = place(opened(root), target)
    Unpacker(folder, rename=rename).unpack(io.BytesIO(pack(tree, "srv/file", "file")))
    assert (root / made).read_bytes() == b"content"


def test_a_folder_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such folder"):
        place(opened(tmp_path), "new/")
    with pytest.raises(FileNotFoundError):
        place(opened(tmp_path), "no/new")
    with pytest.raises(TransferError):
        split("/srv/..")


@pytest.mark.parametrize("names", [("a", "b"), (".", "a"), ("a", "."), ("a/x", "b/x")])
def test_several_names_never_become_one(tmp_path: Path, names: tuple[str, str]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name == "." else tarfile.REGTYPE
            archive.addfile(info)
    out.seek(0)
    tmp_path.chmod(0o751)
    with pytest.raises(TransferError, match="not of one name"):
        Unpacker(opened(tmp_path), rename="new").unpack(out)
    assert tmp_path.stat().st_mode & 0o777 == 0o751


def test_a_file_that_shrinks_keeps_the_size_of_its_header(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"abc")
    with (tmp_path / "log").open("rb") as file:
        source = packing._Exactly(file, 5)
        assert source.read(2) + source.read(2) + source.read() == b"abc\0\0"
        assert source.read(1) == b""


def test_folders_too_deep_in_each_other_are_refused(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_PATH)
    for _ in range(MAX_DEPTH + 2):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(TransferError, match="in each other"):
        pack(tmp_path, "/", ".")
