from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.boot.slots import (
    SlotError,
    emptied,
    filled,
    find_slots,
    halves,
    read_table,
    running_root_hash,
)
from hostctl.run import run
from hostctl.update.gpt import write_table

RUNNING = "11" * 16 + "22" * 16
NEXT = "33" * 16 + "44" * 16
SCRIPT = """label: gpt
start=2048, size=2048, type=U, name="hostctl-esp"
size=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid={0}, name="host_1", attrs="GUID:60"
size=2048, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, uuid={1}, name="host_1-verity"
size=2048, type=41092B05-9FC8-4523-994F-2DEF0408B176, name="host_1-sig"
size=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="_empty"
size=2048, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, name="_empty"
size=2048, type=41092B05-9FC8-4523-994F-2DEF0408B176, name="_empty"
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(16 << 20)
    run(["sfdisk", "--quiet", path], stdin=SCRIPT.format(*halves(RUNNING)).encode())
    return path


def test_fill_and_empty_touch_only_the_other_slot(disk: Path) -> None:
    before = read_table(disk)
    slots = find_slots(before, RUNNING)
    assert slots.running.release == "host_1"
    assert slots.other.release is None
    write_table(disk, filled(before, slots.other, "host_2", NEXT))
    middle = read_table(disk)
    after = find_slots(middle, RUNNING)
    assert after.running == slots.running
    assert after.other.release == "host_2"
    assert after.other.root_hash == NEXT
    assert after.running.root.attributes == "GUID:60"
    write_table(disk, emptied(middle, after.other))
    assert after.digests() == {"1": RUNNING, "2": NEXT}
    last = find_slots(read_table(disk), RUNNING)
    assert last.other.release is None
    assert not last.other.holds(NEXT)
    places = [[(part.start, part.size, part.type) for part in table.partitions] for table in (before, read_table(disk))]
    assert places[0] == places[1]


def test_foreign_root_is_refused(disk: Path) -> None:
    with pytest.raises(SlotError, match="no slot"):
        find_slots(read_table(disk), NEXT)


def test_long_label_is_refused(disk: Path) -> None:
    table = read_table(disk)
    with pytest.raises(SlotError, match="too long"):
        filled(table, find_slots(table, RUNNING).other, "h" * 30, NEXT)


def test_command_line() -> None:
    assert running_root_hash(f"quiet roothash={RUNNING.upper()} x") == RUNNING
    with pytest.raises(SlotError):
        running_root_hash("quiet roothash=12")
