"""Which QEMU runs machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostctl_qemu import emulator
from hostctl_qemu.emulator import Emulator, find_emulator, parse_version, unpacked_argv

from hostctl.run import CommandNotFoundError


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022", (7, 2)),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\n", (10, 0)),
        ("bash: not found", (0, 0)),
    ],
)
def test_version_is_read_from_what_qemu_says(said: str, version: tuple[int, int]) -> None:
    assert parse_version(said) == version


def test_processors_are_emulated_at_once_from_8_1_on() -> None:
    said = [Emulator(argv=(), version=version).threads for version in ((7, 2), (8, 0), (8, 1), (10, 0))]
    assert said == ["single", "single", "multi", "multi"]


def test_the_machines_own_is_found(tmp_path: Path) -> None:
    found = find_emulator(tmp_path)
    assert found.argv == (emulator.QEMU,)
    assert found.version > (0, 0)


def test_the_one_in_the_cache_is_taken_first(tmp_path: Path) -> None:
    loader = tmp_path / "qemu/usr/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text("#!/bin/sh\necho QEMU emulator version 9.2.1\n")
    loader.chmod(0o755)
    assert find_emulator(tmp_path) == Emulator(argv=unpacked_argv(tmp_path / "qemu"), version=(9, 2))


def test_without_any_the_way_to_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "QEMU", "no-such-qemu")
    with pytest.raises(CommandNotFoundError) as caught:
        find_emulator(tmp_path)
    assert caught.value.hint == "script/setup installs it"
