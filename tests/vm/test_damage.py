"""Hosts that were off when their disk was damaged: they start by themselves, and say what became of what."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hostctl_lab import releases
from hostctl_lab.damage import DAMAGES, Disk, break_esp, lose_state
from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.releases import NAME, Lab
from hostctl_qemu.machine import Forward, Machine, free_port, make_overlay
from hostctl_qemu.snapshot import Snapshot
from hostctl_qemu.ssh import Ssh
from hostctl_qemu.state import SSH_PORT
from hostctl_qemu.view import make_raw

from hostctl.compose.manifest import load_manifest
from hostctl.run import run

Start = Callable[[Callable[[Disk], None]], Host]


@pytest.fixture(scope="module")
def staged(
    lab: Lab, booted: Snapshot, go_on: Callable[[Snapshot, Path], Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return the disk of a host that has staged release 2 and was shut down; the firmware's variables are beside it."""
    host = go_on(booted, tmp_path_factory.mktemp("staged"))
    host.run("sync")
    host.machine.quit()
    raw = make_raw(host.machine.config.disk, "qcow2", host.machine.config.folder / "staged.raw")
    Disk(raw).install(lab.build(releases.NEXT), load_manifest(lab.build(releases.BASE)).root_hash)
    yield raw
    raw.unlink()


@pytest.fixture
def start(booted: Snapshot, staged: Path, tmp_path: Path, ssh_folder: Path) -> Iterator[Start]:
    """Return what starts a host from the staged disk after a change to it."""
    machines: list[Host] = []

    def start(change: Callable[[Disk], None]) -> Host:
        folder, raw, port = tmp_path / "host", tmp_path / "disk.raw", free_port()
        folder.mkdir(mode=0o700)
        run(["cp", "--sparse=always", "--reflink=auto", staged, raw])
        change(Disk(raw))
        make_overlay(raw, "raw", folder / "disk.qcow2")
        shutil.copyfile(staged.parent / "vars.fd", folder / "vars.fd")
        ports = (Forward(host_port=port, guest_port=SSH_PORT),)
        config = dataclasses.replace(booted.config, disk=folder / "disk.qcow2", folder=folder, forwards=ports)
        host = Host(machine=Machine.start(config), ssh=Ssh(folder=ssh_folder, port=port))
        machines.append(host)
        return host

    yield start
    for host in machines:
        host.machine.power_cut()
        for path in (host.machine.config.disk, tmp_path / "disk.raw"):
            path.unlink()


@pytest.mark.parametrize("name", ["root", "image-cut"])
def test_a_staged_release_that_was_damaged_is_left_for_the_old_one(start: Start, name: str) -> None:
    damage = DAMAGES[name]
    host = start(damage.make)
    host.wait_release("1", "", 3 * BOOT_SECONDS)
    assert any(entry.startswith(f"{NAME}_2+0-") for entry in host.entries())
    causes = [cause for event, version, cause in host.history() if (event, version) == ("bad", "2")]
    assert len(causes) == 1
    assert re.search(damage.cause, causes[0]), causes
    host.text("hostctl", "health")


def test_a_torn_esp_is_mended_and_a_state_that_is_lost_is_replaced(start: Start) -> None:
    def change(disk: Disk) -> None:
        break_esp(disk)
        lose_state(disk)

    host = start(change)
    host.wait_release("2", "", 2 * BOOT_SECONDS)
    assert host.text("hostname") == "web-1"
    assert host.status()["state"] == "degraded"
    assert "cannot be mounted" in str(host.status()["problems"])
    assert host.text("findmnt", "-no", "FSTYPE", "/var") == "tmpfs"
    (event,) = [row for row in host.history() if row[0] == "repaired" and "EFI" in row[2]]
    assert event[1] == "2"
    host.run("umount", "/efi")
    host.text("fsck.fat", "-n", "/dev/disk/by-partlabel/hostctl-esp")


def test_when_no_release_can_start_it_says_so_and_restarts_no_faster_than_once_a_minute(start: Start) -> None:
    def change(disk: Disk) -> None:
        for version in ("1", "2"):
            disk.flip(f"{NAME}_{version}-verity", 0)

    serial = start(change).machine.serial
    at, told = 0, []
    for _ in range(3):
        serial.wait("no other release can be started", BOOT_SECONDS, after=at)
        at = serial.position
        told.append(time.monotonic())
    assert min(later - sooner for sooner, later in pairwise(told)) >= 60
    serial.wait(r"type a number and Enter to give that release three tries", 30)
    serial.send(b"1\n")
    serial.wait(r"release 1 is tried next", 30, after=at)
    serial.wait(rf"cannot boot release {NAME}_1: the root does not match its root hash", BOOT_SECONDS, after=at)
