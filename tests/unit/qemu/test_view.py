from __future__ import annotations

from pathlib import Path

import pytest
from hostctl_qemu.view import DiskView, Files, ViewError, open_disk
from hypothesis import given
from hypothesis import strategies as st

SIZE = 64


@pytest.fixture
def view(tmp_path: Path) -> DiskView:
    (tmp_path / "base").write_bytes(bytes(range(SIZE)))
    return open_disk(tmp_path / "base")


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 20), st.integers(0, 2)), max_size=12))
def test_writes_read_back_as_on_a_real_disk(writes: list[tuple[int, int, int]]) -> None:
    files = Files()
    base, other = files.add_bytes(bytes(range(SIZE))), files.add_bytes(bytes(range(100, 200)))
    disk, model = DiskView.over(files, base, SIZE), bytearray(range(SIZE))
    for start, wanted, kind in writes:
        length = min(wanted, SIZE - start)
        number, offset = (0, 0) if kind == 0 else (other, start + kind)
        disk.write(start, length, number, offset)
        model[start : start + length] = bytes(length) if kind == 0 else bytes(range(100, 200))[offset:][:length]
    assert disk.read(0, SIZE) == bytes(model)
    assert b"".join(disk.read(place, 1) for place in range(SIZE)) == bytes(model)
    assert disk.size == SIZE
    files.close()


def test_a_fork_does_not_see_later_writes(view: DiskView) -> None:
    fork = view.fork()
    view.write(3, 5, 0, 0)
    assert view.read(0, 10) == b"\0\1\2\0\0\0\0\0\x08\x09"
    assert fork.read(0, 10) == bytes(range(10))


def test_equal_fingerprints_mean_equal_bytes(view: DiskView) -> None:
    before = view.fingerprint(0, 16)
    view.write(16, 8, 0, 0)
    assert view.fingerprint(0, 16) == before
    assert view.fingerprint(0, 17) != view.fork().fingerprint(1, 17)
    view.write(15, 1, 0, 0)
    assert view.fingerprint(0, 16) != before


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (SIZE - 1, 2), (0, SIZE + 1)])
def test_places_outside_are_refused(view: DiskView, start: int, length: int) -> None:
    with pytest.raises(ViewError):
        view.write(start, length, 0, 0)
    with pytest.raises(ViewError):
        view.read(start, length)


def test_a_saved_disk_has_the_writes(view: DiskView, tmp_path: Path) -> None:
    view.write(60, 4, view.files.add_bytes(b"tail"), 0)
    view.save(tmp_path / "base", tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == bytes(range(60)) + b"tail"
    assert (tmp_path / "base").read_bytes() == bytes(range(SIZE))
