"""A recorded run in miniature: the disks before and after are real, the log is what turns one into the other."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostctl_lab import fault_corrupt, fault_states, releases
from hostctl_lab.fault_results import Results, figures, report
from hostctl_lab.scenario import BASE_RAW, FACTS, LOG, RECORDING, Scenario
from hostctl_lab.small_disk import MIB, NAME, Keys, Release, SmallDisk, make_pe
from hostctl_qemu.blocklog import FLUSH, HEADER, MAGIC, SUPERBLOCK
from hostctl_qemu.checker import Checker
from hostctl_qemu.recording import Mark, Recording

STEP = 4096


class Log:
    """Writes a log as QEMU does."""

    def __init__(self) -> None:
        self.data = bytearray(512)
        self.count = 0
        self.marks: list[Mark] = []

    def add(self, start: int, data: bytes, flags: int = 0) -> None:
        self.data += HEADER.pack(start // 512, len(data) // 512, flags, 0).ljust(512, b"\0") + data
        self.count += 1

    def mark(self, label: str) -> None:
        self.marks.append(Mark(label=label, seconds=float(len(self.marks)), log_bytes=len(self.data)))

    def differences(self, before: bytes, after: bytes, start: int, end: int) -> None:
        """Write what differs between two places, then flush."""
        for place in range(start, end, STEP):
            if before[place : place + STEP] != after[place : place + STEP]:
                self.add(place, after[place : place + STEP])
        self.add(0, b"", FLUSH)


@dataclass(frozen=True)
class Made:
    scenario: Scenario
    checker: Checker


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"), careful=True)


def make(folder: Path, *, careful: bool) -> Made:
    folder.mkdir(exist_ok=True)
    keys = Keys.make(folder / "keys")
    one, two, nine = (Release.make(version, keys, folder) for version in ("1", "2", "9"))
    disk = SmallDisk(folder / "disk.raw")
    disk.fill(0, one)
    loader = keys.sign(make_pe({".text": b"loader" * 50}), folder)
    for path in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
        disk.put(path, loader)
    disk.add_entry(one)
    shutil.copyfile(disk.image, folder / BASE_RAW)
    log = Log()
    _update(log, disk, one, two, 1, careful=careful)
    _update(log, disk, two, nine, 0, careful=careful)
    log.data[: SUPERBLOCK.size] = SUPERBLOCK.pack(MAGIC, 1, log.count, 512)
    (folder / LOG).write_bytes(log.data)
    samples = tuple((mark.seconds, mark.log_bytes) for mark in log.marks)
    Recording(marks=tuple(log.marks), samples=samples).save(folder / RECORDING)
    facts = {"name": NAME, "repository_port": 1, "canary_port": 2, "safe": [[512, 7]], "resources": []}
    (folder / FACTS).write_text(json.dumps(facts))
    return Made(Scenario(folder), Checker(keys.certificate))


def _update(log: Log, disk: SmallDisk, old: Release, new: Release, slot: int, *, careful: bool) -> None:
    """Take a release into a slot in the right order: root, table, kernel image, its name; then bless it.

    Who is not careful does not flush the kernel image before it gets its name.
    """
    name = f"{old.version}-{new.version}"
    log.mark(f"{name} begin")
    before = disk.image.read_bytes()
    for path in (
        f"EFI/Linux/tiny_{version}.efi" for version in ("1", "2") if version not in (old.version, new.version)
    ):
        disk.remove(path)
    after = disk.image.read_bytes()
    log.differences(before, after, MIB, 9 * MIB)
    before = after
    disk.fill(slot, new)
    after = disk.image.read_bytes()
    log.differences(before, after, 9 * MIB, len(after) - MIB)
    log.mark(f"{name} root after")
    log.differences(before, after, 0, MIB)  # one write each: a table is never torn here
    log.differences(before, after, len(after) - 9 * STEP, len(after))
    before = after
    disk.put(f"EFI/Linux/.tiny_{new.version}.tmp", new.uki)
    after = disk.image.read_bytes()
    if careful:
        log.differences(before, after, MIB, 9 * MIB)
        before = after
    disk.rename(f"EFI/Linux/.tiny_{new.version}.tmp", f"tiny_{new.version}+1.efi")
    after = disk.image.read_bytes()
    log.differences(before, after, MIB, 9 * MIB)
    log.mark(f"{name} reboot before")
    before = after
    disk.rename(f"EFI/Linux/tiny_{new.version}+1.efi", f"tiny_{new.version}.efi")
    log.differences(before, disk.image.read_bytes(), MIB, 9 * MIB)
    log.mark(f"{name} end")


def test_every_state_of_a_careful_update_is_bootable(made: Made, tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    cases = [
        *fault_states.stage_cases(made.scenario),
        *fault_states.random_cases(made.scenario, 20, seed=1),
        *fault_states.replay_cases(made.scenario, 60, seed=1),
    ]
    done = fault_states.judge_all(made.scenario, made.checker, cases, results)
    kinds = {row.group: figures(results.of(row.group)) for _, row in done}
    assert results.broken == ()
    assert kinds["cuts"]["states"] == 20
    assert kinds["replays"]["states"] >= 60
    assert kinds["replays"]["old"] > 0 < kinds["replays"]["new"]
    assert kinds["stages"]["distinct"] >= 6
    again = Results(tmp_path / "results")
    assert again.rows == results.rows
    assert "replays" in report(again)
    chosen = fault_states.choose_to_boot(done, results, 5, seed=1)
    assert len({row.decisive for _, row in chosen}) == 5


def test_an_update_that_does_not_flush_in_time_is_found(tmp_path: Path) -> None:
    made, results = make(tmp_path / "run", careful=False), Results(tmp_path / "results")
    fault_states.judge_all(made.scenario, made.checker, fault_states.stage_cases(made.scenario), results)
    assert results.broken == ()  # what is cut in order looks well
    fault_states.judge_all(made.scenario, made.checker, fault_states.replay_cases(made.scenario, 200, seed=1), results)
    assert results.broken != ()


def test_every_corruption_is_found(made: Made, tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    fault_corrupt.run_corruptions(made.scenario, made.checker, results, seed=1)
    assert results.broken == ()
    assert figures(results.of("corrupt"))["states"] == figures(results.of("corrupt"))["old"] > 100


def test_what_the_workload_was_told_is_remembered(made: Made) -> None:
    assert [made.scenario.safe_number(size) for size in (0, 512, 9999)] == [0, 7, 7]
    assert releases.THIRD.version == made.scenario.directions[1].expectation.new
