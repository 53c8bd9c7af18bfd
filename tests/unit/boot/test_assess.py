from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.boot.assess import COUNT_PATH, EFIVARS, BootCountError, counted_entry


def put(root: Path, text: bytes) -> None:
    (root / EFIVARS).mkdir(parents=True)
    (root / EFIVARS / COUNT_PATH).write_bytes(b"\x06\0\0\0" + text)


def test_boot_that_is_not_counted(tmp_path: Path) -> None:
    assert counted_entry(tmp_path) is None


def test_counted_boot(tmp_path: Path) -> None:
    put(tmp_path, "\\EFI\\Linux\\host_2+2-1.efi\0".encode("utf-16-le"))
    entry = counted_entry(tmp_path)
    assert entry is not None
    assert (entry.release, entry.left, entry.done) == ("host_2", 2, 1)


@pytest.mark.parametrize("text", [b"", b"x", "\\EFI\\Linux\\host_2.efi\0".encode("utf-16-le"), b"\x00\xd8\x00\x00"])
def test_nonsense_is_an_error(tmp_path: Path, text: bytes) -> None:
    put(tmp_path, text)
    with pytest.raises(BootCountError):
        counted_entry(tmp_path)
