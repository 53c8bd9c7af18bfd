from __future__ import annotations

import pytest

from hostctl.boot.entries import choose, in_boot_order, parse_entries, parse_entry


@pytest.mark.parametrize(
    "name", ["host_2.efi", "host_2+3.efi", "host_2+2-1.efi", "host_1.10~rc1+0-3.efi", "a-b_1-2.efi"]
)
def test_names_survive(name: str) -> None:
    entry = parse_entry(name)
    assert entry is not None
    assert entry.filename == name


@pytest.mark.parametrize(
    "name", ["host.efi", "host_2+.efi", "host_2+3-.efi", "host_2.efi.tmp", ".host_2.efi", "../h_2.efi"]
)
def test_other_files_are_not_ours(name: str) -> None:
    assert parse_entry(name) is None


def test_newest_is_tried_until_it_is_bad() -> None:
    files = ["host_9.efi", "host_10+1-2.efi", "other_11.efi"]
    first = choose(parse_entries(files, "host"))
    assert first is not None
    assert first.version == "10"
    files[1] = first.given_up().filename
    assert files[1] == "host_10+0-2.efi"
    assert [entry.version for entry in in_boot_order(parse_entries(files, "host"))] == ["9", "10"]


def test_bad_is_better_than_nothing() -> None:
    entry = choose(parse_entries(["host_1+0-3.efi"], "host"))
    assert entry is not None
    assert entry.bad
    assert choose(()) is None
