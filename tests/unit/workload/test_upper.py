"""What a workload has written as a layer: the same bytes each time, and nothing of the host in it."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from hostctl.image.tarstream import rewrite
from hostctl.workload import upper
from hostctl.workload.upper import OPAQUE, Packed, UpperError

FIRST = 0x10000000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are devices, and owners are others")


def own(folder: Path, user: int = 0) -> None:
    """Give a tree to a user of the workload's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, FIRST + user, FIRST + user, follow_symlinks=False)
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def packed(folder: Path, limit: int = 1 << 30) -> tuple[Packed, bytes]:
    """Return what is said of the layer of a folder, and the layer."""
    out, descriptor = io.BytesIO(), os.open(folder, os.O_RDONLY)
    try:
        return upper.pack(descriptor, FIRST, out, limit=limit), out.getvalue()
    finally:
        os.close(descriptor)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    """Return the entries of a layer by name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar}


def fill(folder: Path) -> None:
    """Write what a workload may write."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/conf").write_text("y" * 3000)
    (folder / "etc/again").hardlink_to(folder / "etc/conf")
    (folder / "link").symlink_to("../../../etc/shadow")
    (folder / "empty").touch()
    (folder / ("long" * 60)).write_text("x")
    (folder / "srv").mkdir()
    os.mknod(folder / "srv/gone", stat.S_IFCHR)
    own(folder, 7)
    (folder / "etc/conf").chmod(0o4750)  # a change of owner takes it away
    os.setxattr(folder / "srv", OPAQUE, b"y")


def test_a_layer_has_what_was_written_and_marks_for_what_was_deleted(tmp_path: Path) -> None:
    fill(tmp_path / "upper")
    said, data = packed(tmp_path / "upper")
    found = members(data)
    wanted = ["empty", "etc", "etc/again", "etc/conf", "link", "long" * 60, "srv", "srv/.wh..wh..opq", "srv/.wh.gone"]
    assert list(found) == wanted
    assert (found["etc/again"].uid, found["etc/again"].mode, found["etc/again"].size) == (7, 0o4750, 3000)
    assert (found["etc/conf"].type, found["etc/conf"].linkname) == (tarfile.LNKTYPE, "etc/again")
    assert found["link"].linkname == "../../../etc/shadow"
    assert (said.size, said.entries, said.newest, said.skipped) == (len(data), 9, 1_700_000_000, ())
    assert rewrite(io.BytesIO(data), lambda _: None) == 9  # as the importer takes it


def test_the_same_files_are_the_same_layer(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill(tmp_path / name)
    assert packed(tmp_path / "one") == packed(tmp_path / "two")
    (tmp_path / "two/empty").write_text("x")
    assert packed(tmp_path / "one")[0].diff_id != packed(tmp_path / "two")[0].diff_id


def test_nothing_at_all_is_an_empty_archive(tmp_path: Path) -> None:
    said, data = packed(tmp_path)
    assert (said.entries, data) == (0, bytes(1024))


def test_what_a_layer_cannot_hold_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / ".wh.etc").touch()  # in a layer it would delete /etc
    (tmp_path / ".wh..wh..opq").touch()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    os.mknod(tmp_path / "disk", stat.S_IFBLK, os.makedev(8, 0))
    (tmp_path / "kept").touch()
    own(tmp_path)
    said, data = packed(tmp_path)
    assert list(members(data)) == ["kept"]
    assert said.skipped == (".wh..wh..opq", ".wh.etc", "disk", "pipe", "socket")


def test_names_are_counted_before_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper, "ENTRIES", 2)
    for number in range(2):
        os.mkfifo(tmp_path / f"pipe{number}")
    own(tmp_path)
    assert packed(tmp_path)[0].skipped == ("pipe0", "pipe1")
    os.mkfifo(tmp_path / "pipe2")
    with pytest.raises(UpperError, match="more than 2 entries"):
        packed(tmp_path)


def test_names_that_are_no_text_stay(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff\x1b", os.O_CREAT | os.O_WRONLY))
    own(tmp_path)
    assert list(members(packed(tmp_path)[1])) == ["\udcff\x1b"]


@pytest.mark.parametrize("name", upper.UNREADABLE)
def test_what_the_overlay_keeps_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "moved").mkdir()
    own(tmp_path)
    os.setxattr(tmp_path / "moved", name, b"/elsewhere")
    with pytest.raises(UpperError, match="not known here"):
        packed(tmp_path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "host").touch()
    for user in (0, FIRST + 65536):
        os.chown(tmp_path / "host", user, FIRST)
        with pytest.raises(UpperError, match="not the workload's"):
            packed(tmp_path)


def test_more_than_there_is_room_for_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    own(tmp_path)
    with pytest.raises(UpperError, match="more than the 1073741824 bytes"):
        packed(tmp_path)


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 200)).mkdir(parents=True)
    own(tmp_path)
    with pytest.raises(UpperError, match="folders in each other"):
        packed(tmp_path)


def test_a_tree_that_changes_meanwhile_gives_nothing_of_the_host(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "upper"
    secret.mkdir()
    (secret / "file").write_text("of the host")
    (folder / "a").mkdir(parents=True)
    (folder / "a/file").write_text("own")
    own(folder)
    (folder / "b").symlink_to(secret)
    os.chown(folder / "b", FIRST, FIRST, follow_symlinks=False)
    ended = threading.Event()

    def race() -> None:
        while not ended.is_set():
            for old, new in (("a", "c"), ("b", "a"), ("a", "b"), ("c", "a")):
                (folder / old).rename(folder / new)

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(300):
            data = packed(folder)[1]
            assert b"of the host" not in data
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert all(info.uid == 0 for info in tar)
    finally:
        ended.set()
        racer.join()


def test_a_file_that_shrinks_keeps_the_archive_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 << 20))
    own(tmp_path)

    class Cutting(io.BytesIO):
        def write(self, data: object) -> int:
            if self.tell() == 512:
                path.write_bytes(b"")
            return super().write(data)  # type: ignore[arg-type]  # what io.BytesIO takes

    out, descriptor = Cutting(), os.open(tmp_path, os.O_RDONLY)
    upper.pack(descriptor, FIRST, out, limit=1 << 30)
    os.close(descriptor)
    assert members(out.getvalue())["log"].size == 3 << 20
