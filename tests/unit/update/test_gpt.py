"""The partition table on a disk image; what is written is judged by sfdisk, and cut off by strace."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.boot.slots import Table, read_table
from hostctl.run import run
from hostctl.update.gpt import TableError, write_table

SECTORS = 16384
WRITER = """
import json, sys
from dataclasses import replace
from pathlib import Path
from hostctl.boot.slots import read_table
from hostctl.update.gpt import write_table
disk, label = Path(sys.argv[1]), sys.argv[2]
table = read_table(disk)
write_table(disk, replace(table, partitions=tuple(replace(part, label=label) for part in table.partitions)))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SECTORS * 512)
    run(["sfdisk", "--quiet", path], stdin=b"label: gpt\nsize=2048, name=old\nsize=2048, name=old, attrs=GUID:60\n")
    return path


def labelled(disk: Path, label: str) -> Table:
    table = read_table(disk)
    return replace(table, partitions=tuple(replace(part, label=label) for part in table.partitions))


def spoil(disk: Path, sector: int) -> None:
    with disk.open("r+b") as file:
        file.seek(sector * 512 + 40)
        file.write(b"\xaa" * 8)


def labels(disk: Path) -> set[str]:
    return {part.label for part in read_table(disk).partitions}


def sound(disk: Path) -> bool:
    """Tell whether sfdisk finds nothing wrong with either copy."""
    done = run(["sfdisk", "--verify", disk])
    return not done.stderr and b"No errors detected" in done.stdout


def cut_off(disk: Path, label: str, what: str) -> int:
    """Write in a process of its own that strace disturbs; return its exit status."""
    words = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:{what}"]
    return subprocess.run([*words, sys.executable, "-c", WRITER, disk, label], check=False).returncode


def test_only_labels_and_identities_change_and_twice_changes_nothing(disk: Path) -> None:
    before = json.loads(run(["sfdisk", "--json", disk]).stdout)
    for label in ("new", "newer", "newest"):
        assert write_table(disk, labelled(disk, label))
        assert not write_table(disk, labelled(disk, label))
        assert sound(disk)
    after = json.loads(run(["sfdisk", "--json", disk]).stdout)
    for part in after["partitiontable"]["partitions"]:
        assert part["name"] == "newest"
        part["name"] = "old"
    assert after == before


@pytest.mark.parametrize("mistake", ["x" * 37, "ä" * 37])
def test_what_cannot_be_written_is_refused(disk: Path, mistake: str) -> None:
    whole = disk.read_bytes()
    with pytest.raises(TableError):
        write_table(disk, labelled(disk, mistake))
    foreign = labelled(disk, "new")
    with pytest.raises(TableError, match="cannot be written"):
        write_table(disk, replace(foreign, partitions=(replace(foreign.partitions[0], start=77),)))
    assert disk.read_bytes() == whole


def test_every_cut_leaves_a_whole_table_and_can_be_mended(disk: Path) -> None:
    for count in range(1, 20):
        label = f"cut-{count}"
        before = labels(disk)
        status = cut_off(disk, label, f"signal=KILL:when={count}")
        found = labels(disk)
        assert found in (before, {label})
        spoiled = disk.with_suffix(".copy")
        spoiled.write_bytes(disk.read_bytes())
        spoil(spoiled, SECTORS - 1)
        assert labels(spoiled) == found, "the first copy alone is not enough"
        if status == 0:
            break
        assert write_table(disk, labelled(disk, label)) or found == {label}
        assert sound(disk)
    assert status == 0
    assert count == 5, "two arrays and two headers"


def test_every_write_that_fails_is_told_and_leaves_a_whole_table(disk: Path) -> None:
    for count in range(1, 5):
        before = labels(disk)
        assert cut_off(disk, f"fail-{count}", f"error=EIO:when={count}") == 1
        assert labels(disk) in (before, {f"fail-{count}"})
        write_table(disk, labelled(disk, f"fail-{count}"))
        assert sound(disk)


@pytest.mark.parametrize("sector", [1, SECTORS - 1], ids=["first", "second"])
def test_a_damaged_copy_is_mended(disk: Path, sector: int) -> None:
    spoil(disk, sector)
    assert write_table(disk, labelled(disk, "old"))
    assert sound(disk)
    spoil(disk, sector)
    assert write_table(disk, labelled(disk, "new"))
    assert sound(disk)
    assert labels(disk) == {"new"}


def test_two_damaged_copies_are_not_written(disk: Path) -> None:
    wanted = labelled(disk, "new")
    spoil(disk, 1)
    spoil(disk, SECTORS - 1)
    before = disk.read_bytes()
    with pytest.raises(TableError):
        write_table(disk, wanted)
    assert disk.read_bytes() == before


@pytest.fixture
def tight(tmp_path: Path) -> Path:
    """Return a disk without room for a second array before its first partition."""
    path = tmp_path / "tight.raw"
    with path.open("wb") as file:
        file.truncate(SECTORS * 512)
    run(["sfdisk", "--quiet", path], stdin=b"label: gpt\nfirst-lba: 34\nstart=34, size=2048, name=old\n")
    return path


def test_a_disk_without_room_for_a_second_array(tight: Path) -> None:
    spoil(tight, SECTORS - 1)  # must be whole before the only array is overwritten
    cut_off(tight, "new", "signal=KILL:when=4")
    assert labels(tight) == {"old"}
    assert write_table(tight, labelled(tight, "new"))
    assert sound(tight)
