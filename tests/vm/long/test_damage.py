"""Hosts that were off when their disk was damaged: they start by themselves, and say what became of what."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hostctl_lab import releases
from hostctl_lab.damage import DAMAGES, Disk, PowerOn, break_esp, lose_state
from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.releases import NAME, Lab

from hostctl.compose.manifest import load_manifest


@pytest.fixture
def start(lab: Lab, power_on: PowerOn) -> PowerOn:
    """Return what starts a host, on whose disk release 2 was staged while it was off, after a change to the disk."""
    build, running = lab.build(releases.NEXT), load_manifest(lab.build(releases.BASE)).root_hash

    def start(change: Callable[[Disk], None], declared: str = "") -> Host:
        def both(disk: Disk) -> None:
            disk.install(build, running)
            change(disk)

        return power_on(both, declared)

    return start


@pytest.mark.parametrize("name", ["root", "image-cut"])
def test_a_staged_release_that_was_damaged_is_left_for_the_old_one(start: PowerOn, name: str) -> None:
    damage = DAMAGES[name]
    host = start(damage.make)
    host.wait_release("1", "", 3 * BOOT_SECONDS)
    assert any(entry.startswith(f"{NAME}_2+0-") for entry in host.entries())
    causes = [cause for event, version, cause in host.history() if (event, version) == ("bad", "2")]
    assert len(causes) == 1
    assert re.search(damage.cause, causes[0]), causes
    host.text("hostctl", "health")


def test_a_torn_esp_is_mended_and_a_state_that_is_lost_is_replaced(start: PowerOn) -> None:
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


def test_a_state_and_a_registry_that_are_lost_leave_a_host_that_is_reached(power_on: PowerOn, declaration: str) -> None:
    far = declaration + "workloads:\n  far: {image: '127.0.0.1:9/box:1', required: true}\n"

    def change(disk: Disk) -> None:
        disk.declare(far)
        lose_state(disk)

    host = power_on(change, far)
    host.wait_release("1", "", 2 * BOOT_SECONDS)
    assert host.run("id", "-un", user="ops").text.strip() == "ops"
    assert host.text("hostname") == "web-1"
    assert "the workloads wait for their images" in str(host.status()["problems"])
    assert "not healthy" in host.fails("hostctl", "health")
    assert not host.happened("bad", "1")
    host.text("systemctl", "stop", "hostctl-withheld.service")  # it may be at it, and nobody waits for a lock
    host.apply(declaration)
    host.text("systemctl", "start", "hostctl-withheld.service")
    assert "the workloads" not in str(host.status()["problems"])
    host.text("hostctl", "health")


def test_when_no_release_can_start_it_says_so_and_restarts_no_faster_than_once_a_minute(start: PowerOn) -> None:
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
