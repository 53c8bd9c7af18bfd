"""Trees that are made so that they cannot be removed."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hostctl import removal
from hostctl.removal import remove_tree

DEEP = 5000


def nested(top: Path, depth: int, name: str = "a") -> None:
    """Make folders in each other, with a file and a link in each."""
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=folder)
        os.symlink("..", "link", dir_fd=folder)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


@pytest.mark.usefixtures("few_files")
def test_a_tree_may_be_deeper_than_files_can_be_open_and_than_a_path_is_long() -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:  # in memory: a disk takes milliseconds for each
        nested(Path(folder, "top"), DEEP, "n" * 255)
        remove_tree(Path(folder, "top"))
        assert not list(Path(folder).iterdir())


def test_a_tree_may_be_wide_and_have_folders_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "NAMES", 3)  # so that each folder is looked at again and again
    for first in range(10):
        for second in range(10):
            (tmp_path / f"top/{first}/{second}").mkdir(parents=True)
            (tmp_path / f"top/{first}/{second}.file").touch()
    os.mkfifo(tmp_path / "top/pipe")
    remove_tree(tmp_path / "top")
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "kept")
    (tmp_path / "itself").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "top")
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "itself")
    assert (tmp_path / "kept/file").exists()


def test_what_is_not_there_needs_no_removal(tmp_path: Path) -> None:
    remove_tree(tmp_path / "absent")
    remove_tree(tmp_path / "absent/too")


def test_a_folder_that_is_moved_out_meanwhile_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    entered = removal._enter

    def move(folder: int, name: str, device: int) -> int:
        inner = entered(folder, name, device)
        if name == "b":
            (tmp_path / "top/a/b").rename(tmp_path / "kept/b")
        return inner

    monkeypatch.setattr(removal, "_enter", move)
    with pytest.raises(OSError, match="moved away"):
        remove_tree(tmp_path / "top")
    assert (tmp_path / "kept/file").exists()
    assert (tmp_path / "kept/b").exists()
