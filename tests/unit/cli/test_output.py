"""What a verb writes for the user is whole, or what was there before stays."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hostctl.cli.output import OutputError, output


def write(path: Path, data: bytes = b"new") -> None:
    with output(path) as file:
        file.write(data)


def test_a_file_is_replaced_by_one_for_its_maker_alone(tmp_path: Path) -> None:
    target = tmp_path / "archive"
    target.write_bytes(b"old")
    target.chmod(0o644)
    write(target)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "archive"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="half"), output(target) as file:
        file.write(b"half")
        raise ValueError("half")
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to("archive")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "archive").read_bytes() == b"new"


def test_a_pipe_is_written_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write, args=(pipe,))
    writer.start()
    assert pipe.read_bytes() == b"new"
    writer.join()
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["gone/archive", "file/archive", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write(tmp_path / name)
    assert str(tmp_path / name) in caught.value.brief


def test_a_full_disk_is_told() -> None:
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left"):
        write(Path("/dev/full"))
