"""The firmware's boot options: what is written, where it stands, and that nothing is written twice."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hostctl.boot import firmware
from hostctl.boot.assess import EFIVARS
from hostctl.boot.entries import parse_entries
from hostctl.boot.firmware import Options, description, install, plan, wanted
from hostctl.boot.slots import TYPE_ESP, Partition, Table

ESP = Partition(
    node=Path("/dev/vda1"),
    start=2048,
    size=4096,
    type=TYPE_ESP,
    uuid="c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    label="hostctl-esp",
)
TABLE = Table(partitions=(ESP,), sector=512)
ENTRIES = parse_entries(("edge_1.efi", "edge_2.efi", "edge_3+0-3.efi", "edge_4+3.efi"), "edge")
WANT = wanted(TABLE, ENTRIES, "2")


def test_the_loader_is_named_again_and_then_the_other_good_release() -> None:
    assert [description(option) for option in WANT] == ["hostctl 2", "hostctl 3", "hostctl 4", "hostctl other release"]
    loader, other = WANT[0], WANT[-1]
    length = struct.unpack_from("<IH", loader)[1]
    nodes = loader[-length:]
    assert nodes[:4] == b"\x04\x01\x2a\x00"
    assert struct.unpack_from("<IQQ", nodes, 4) == (1, 2048, 4096)
    assert nodes[24:42] == bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b0202")
    assert nodes[46:-4].decode("utf-16-le") == "\\EFI\\systemd\\systemd-bootx64.efi\0"
    assert other[-len("\\EFI\\Linux\\edge_1.efi\0") * 2 - 4 : -4].decode("utf-16-le") == "\\EFI\\Linux\\edge_1.efi\0"
    assert nodes[-4:] == b"\x7f\xff\x04\x00"
    assert wanted(Table(partitions=(), sector=512), ENTRIES, "2") == ()


def test_options_stand_behind_the_one_that_started_this_boot_and_stay() -> None:
    foreign = {0: b"\1\0\0\0\0\0p\0x\0e\0\0\0", 1: b"\1\0\0\0\0\0d\0\0\0"}
    change = plan(Options(contents=foreign, order=(0, 1), current=0), WANT)
    assert change.order == (0, 2, 3, 4, 5, 1)
    assert change.contents == dict(zip((2, 3, 4, 5), WANT, strict=True))
    after = Options(contents=foreign | dict(zip((2, 3, 4, 5), WANT, strict=True)), order=(0, 2, 3, 4, 5, 1), current=0)
    for current in (0, 3):  # by the first, or by one of ours
        again = plan(Options(contents=after.contents, order=after.order, current=current), WANT)
        assert (dict(again.contents), again.order) == ({}, None)
    without = plan(after, WANT[:-1])
    assert (dict(without.contents), without.order) == ({5: None}, (0, 2, 3, 4, 1))
    nowhere = plan(Options(contents=foreign, order=(0, 1), current=7), WANT[:1])
    assert nowhere.order == (2, 0, 1)


@pytest.mark.parametrize("option", [b"", b"\1\0", b"\1\0\0\0\0\0", b"\1\0\0\0\0\0h\0"])
def test_an_option_that_is_cut_off_has_no_description(option: bytes) -> None:
    assert description(option) == ""


def test_variables_are_written_once_with_their_attributes(tmp_path: Path) -> None:
    assert not install(tmp_path, TABLE, ENTRIES, "2")
    folder = tmp_path / EFIVARS
    folder.mkdir(parents=True)
    order = folder / f"BootOrder-{firmware.GLOBAL}"
    order.write_bytes(b"\7\0\0\0\1\0")
    (folder / f"BootCurrent-{firmware.GLOBAL}").write_bytes(b"\6\0\0\0\1\0")
    (folder / f"Boot0001-{firmware.GLOBAL}").write_bytes(b"\7\0\0\0\1\0\0\0\0\0d\0\0\0")
    (folder / "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f").write_bytes(b"\7\0\0\0")
    assert install(tmp_path, TABLE, ENTRIES, "2")
    assert order.read_bytes() == b"\7\0\0\0" + struct.pack("<5H", 1, 0, 2, 3, 4)
    assert (folder / f"Boot0000-{firmware.GLOBAL}").read_bytes() == b"\7\0\0\0" + WANT[0]
    assert not install(tmp_path, TABLE, ENTRIES, "2")
