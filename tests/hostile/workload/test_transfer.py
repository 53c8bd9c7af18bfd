"""Archives and trees that want out of their folder: nothing outside is read or written."""

from __future__ import annotations

import ctypes
import io
import os
import random
import tarfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hostctl.workload.beneath import TransferError
from hostctl.workload.packing import Packer
from hostctl.workload.unpacking import Unpacker

SECRET = b"the host's"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
RACE_SECONDS = 60.0  # at most, until both sides have won


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/shadow").write_bytes(SECRET)
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


def archive(*entries: tuple[str, bytes, str]) -> io.BytesIO:
    """Return an archive of (name, type, link name or content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, rest in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(rest)
                tar.addfile(info, io.BytesIO(rest.encode()))
            else:
                info.linkname = rest
                tar.addfile(info)
    out.seek(0)
    return out


FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "entries",
    [
        [("../outside/shadow", FILE, "x")],
        [("a/../../outside/shadow", FILE, "x")],
        [("a", LINK, "../outside"), ("a/shadow", FILE, "x")],
        [("a", LINK, "/"), ("a/etc/hostile", FILE, "x")],
        [("a", LINK, "../outside"), ("a", FOLDER, ""), ("a/shadow", FILE, "x")],
        [("a", HARD, "../outside/shadow"), ("a", FILE, "x")],
        [("d", LINK, "../outside"), ("a", HARD, "d/shadow")],
        [("a", LINK, "b"), ("b", LINK, "a"), ("a/x", FILE, "x")],
        [("f", FILE, "x"), ("f/x", FILE, "x")],
        [("d", FOLDER, ""), ("d", FILE, "x")],
        [("a\0b/../../outside/shadow", FILE, "x"), ("..", FOLDER, "")],
    ],
)
def test_no_entry_leads_out(inside: Path, entries: list[tuple[str, bytes, str]]) -> None:
    before = sorted(path.name for path in inside.parent.iterdir())
    with pytest.raises((TransferError, OSError)):
        Unpacker(os.open(inside, os.O_PATH)).unpack(archive(*entries))
    assert (inside.parent / "outside/shadow").read_bytes() == SECRET
    assert (inside.parent / "outside/shadow").stat().st_nlink == 1
    assert sorted(path.name for path in inside.parent.iterdir()) == before


def test_an_absolute_name_is_below_the_folder_and_devices_are_left_out(inside: Path) -> None:
    unpacker = Unpacker(os.open(inside, os.O_PATH))
    unpacker.unpack(archive(("/etc/x", FILE, "x"), ("null", tarfile.CHRTYPE, ""), ("disk", tarfile.BLKTYPE, "")))
    assert (inside / "etc/x").read_text() == "x"
    assert unpacker.skipped == ["null", "disk"]


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(inside: Path) -> None:
    (inside / "log").symlink_to("../outside/shadow")
    Unpacker(os.open(inside, os.O_PATH)).unpack(archive(("log", FILE, "x")))
    assert (inside / "log").read_text() == "x"
    assert (inside.parent / "outside/shadow").read_bytes() == SECRET


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"x" * 5000, id="text"),
        pytest.param(b"\x1f\x8b\x08" + b"\0" * 100, id="gzip"),
        pytest.param(b"\0" * 511, id="short"),
        pytest.param(random.Random(0).randbytes(4096), id="noise"),  # noqa: S311 - reproducible, not secret
    ],
)
def test_what_is_no_archive_is_refused_or_empty(inside: Path, data: bytes) -> None:
    with suppress(TransferError):
        Unpacker(os.open(inside, os.O_PATH)).unpack(io.BytesIO(data))
    assert list(inside.iterdir()) == []


def test_only_regular_files_are_opened(inside: Path) -> None:
    os.mkfifo(inside / "pipe")  # opening it would wait for a writer for ever
    (inside / "link").symlink_to("../outside/shadow")
    out = io.BytesIO()
    packer = Packer(out)
    packer.add(os.open(inside, os.O_PATH), "/", ".")
    packer.close()
    assert SECRET not in out.getvalue()


def test_a_race_of_links_reads_nothing_outside(inside: Path) -> None:
    """A folder is exchanged with a link to the outside all the time while it is packed and unpacked."""
    (inside / "data").mkdir()
    (inside / "data/shadow").write_bytes(b"own")
    (inside / "evil").symlink_to("../outside")
    stop, libc, chance = threading.Event(), ctypes.CDLL(None), random.Random(1)  # noqa: S311 - a pace

    def exchange() -> None:
        while not stop.wait(chance.random() / 10_000):  # at no steady pace, which the other side might fall into
            here, there = os.fsencode(inside / "data"), os.fsencode(inside / "evil")
            assert libc.syscall(316, AT_FDCWD, here, AT_FDCWD, there, RENAME_EXCHANGE) == 0  # renameat2 of x86-64

    racer = threading.Thread(target=exchange)
    racer.start()
    try:
        root = os.open(inside, os.O_PATH)
        tried = seen = 0
        end = time.monotonic() + RACE_SECONDS
        while (tried < 500 or not 0 < seen < tried) and time.monotonic() < end:
            tried += 1
            out = io.BytesIO()
            packer = Packer(out)
            try:
                packer.add(root, "data/shadow", "shadow")
                seen += 1
            except OSError:
                pass
            packer.close()
            assert SECRET not in out.getvalue()
            with suppress(OSError, TransferError):
                Unpacker(root).unpack(archive(("data/new", FILE, "x")))
    finally:
        stop.set()
        racer.join()
    assert 0 < seen < tried
    assert os.listdir(inside.parent / "outside") == ["shadow"]  # noqa: PTH208 - names only
