"""The recovery entry of the boot menu: never chosen by itself, of use to a person, and of little use to an attacker."""

from __future__ import annotations

from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.releases import NAME
from hostctl_qemu.serial import SerialConsole

VARIABLE = "/sys/firmware/efi/efivars/{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
ASKED = "type a number and Enter to start that release once"
SECONDS = 30.0
WAITS = 120.0
"""Seconds that the recovery waits for an answer."""


def selected(host: Host) -> str:
    """Return the entry that the boot loader started."""
    variable = host.run("cat", VARIABLE.format("LoaderEntrySelected")).stdout
    return variable[4:].decode("utf-16-le").rstrip("\0")


def into_recovery(host: Host, release: str = "1") -> int:
    """Restart into the recovery entry, and return where the console was before."""
    at = host.machine.serial.position
    host.run("systemctl", "reboot", f"--boot-loader-entry={NAME}_{release}.efi@recovery", check=False)
    host.machine.serial.wait(ASKED, BOOT_SECONDS, after=at)
    return at


def answer(serial: SerialConsole, text: str, told: str) -> None:
    """Type a line and wait for what the recovery makes of it."""
    at = serial.position
    serial.send(f"{text}\n".encode())
    serial.wait(told, SECONDS, after=at)


def test_it_tells_what_is_there_and_ends_in_the_release_when_nobody_answers(host: Host) -> None:
    assert selected(host) == f"{NAME}_1.efi"  # the first boot, whose entry was counted: an id has no counter
    before, serial = host.boot_id(), host.machine.serial
    at = into_recovery(host)
    serial.wait(rf"recovery of release {NAME}_1, root hash [0-9a-f]{{64}}", SECONDS, after=at)
    serial.wait(rf"partitions: .*hostctl-esp.* {NAME}_1 {NAME}_1-verity .*hostctl-var", SECONDS, after=at)
    serial.wait(rf"  1: {NAME}_1\.efi: good, its root hash is found", SECONDS, after=at)
    answer(serial, "e", "type erase and Enter")
    answer(serial, "erase", f"type the name of this release, {NAME}_1, and Enter")
    answer(serial, "yes", "nothing was removed")
    host.wait_release("1", before, WAITS + BOOT_SECONDS)
    assert selected(host) == f"{NAME}_1.efi"
    assert host.happened("blessed", "1")


def test_it_empties_the_state_and_the_host_starts_over_with_its_declaration(host: Host) -> None:
    host.shell("echo kept > /var/mine; echo kept > /var/.mine")
    before, serial = host.boot_id(), host.machine.serial
    into_recovery(host)
    answer(serial, "e", "type erase and Enter")
    answer(serial, "erase", f"type the name of this release, {NAME}_1, and Enter")
    answer(serial, f"{NAME}_1", "the state is empty")
    host.wait_release("1", before)
    host.text("hostctl", "health")
    assert host.fails("ls", "/var/mine", "/var/.mine").count("No such file") == 2
    assert host.history() == ()
    assert host.text("readlink", "/var/lib/hostctl/current") == "generations/1"
    assert host.text("hostname") == "web-1"
    assert host.text("findmnt", "-no", "FSTYPE", "/var") == "ext4"
    assert host.entries() == [f"{NAME}_1.efi"]


def test_the_former_release_is_started_once(updated_host: Host) -> None:
    host, serial = updated_host, updated_host.machine.serial
    entries, before = host.entries(), host.boot_id()
    at = into_recovery(host, "2")
    serial.wait(rf"  1: {NAME}_1\.efi: good, its slot is found", SECONDS, after=at)
    serial.wait(rf"  2: {NAME}_2\.efi: good, its root hash is found", SECONDS, after=at)
    answer(serial, "1", "release 1 is tried next")
    host.wait_release("1", before)
    assert host.entries() == entries
    host.reboot_into("2")
