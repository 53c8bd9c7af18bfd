"""Releases that do not come up, each tried once, and a disk that forgets: the machine always comes back by itself."""

import json
from pathlib import Path

import pytest
from hostctl_lab import releases
from hostctl_lab.damage import PowerOn
from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.releases import Lab, Spec
from hostctl_lab.server import RepositoryServer
from hostctl_qemu.machine import Machine

from hostctl.compose.manifest import load_manifest
from hostctl.run import run

SECTOR = 512
PANIC = "Kernel panic - not syncing: sysrq triggered crash"
LATE = "hostctl: not healthy, or not in time"
UNASKED = r"did not stop!\s+\S*\[ +[0-9.]+\] reboot: Restarting system"
"""On the console: every restart but the one after a crash of process 1 shows a line of systemd-shutdown first."""
SUPERBLOCK = 1024  # where EROFS has it, so that it is read in every boot


def root_offset(host: Host, label: str) -> int:
    """Return where on the disk the partition with this label begins, in bytes."""
    table = json.loads(host.text("sfdisk", "--json", "/dev/vda"))["partitiontable"]
    return next(int(part["start"]) for part in table["partitions"] if part.get("name") == label) * SECTOR


def check_left(host: Host, spec: Spec, sign: str, cause: str, line: str) -> None:
    """Check that a release was tried once, left, and that the history says why."""
    host.machine.wait_for_serial(sign, 1)
    assert f"vmtest_{spec.version}+0-1.efi" in host.entries()
    (event,) = host.events("bad", spec.version)
    assert cause in str(event["cause"])
    assert line in str(event["lines"])
    assert not host.happened("blessed", spec.version)


@pytest.mark.parametrize(
    ("spec", "sign", "cause", "line"),
    [
        pytest.param(releases.PANIC, r"Kernel panic - not syncing: VFS", "as often as it was tried", "", id="panic"),
        pytest.param(releases.OOPS, PANIC, PANIC, "sysrq: Trigger a crash", id="oops"),
        pytest.param(releases.CRASH, UNASKED, "", "", id="crash"),
        pytest.param(releases.NO_AGENT, LATE, "it was not healthy in time", "hostctl-health.service", id="agent"),
    ],
)
def test_a_release_that_does_not_come_up_is_left(
    power_on: PowerOn, lab: Lab, spec: Spec, sign: str, cause: str, line: str
) -> None:
    build, running = lab.build(spec), load_manifest(lab.build(releases.BASE)).root_hash
    host = power_on(lambda disk: disk.install(build, running))
    host.wait_release("1", "", 3 * BOOT_SECONDS)
    check_left(host, spec, sign, cause, line)


def test_a_release_that_is_not_healthy_in_time_is_left_and_not_taken_again(
    own_host: Host, lab: Lab, server: RepositoryServer, tmp_path: Path, declaration: str
) -> None:
    own_host.apply(declaration.replace("within: 20s", "within: 10m"))  # or its check is over before the deadline
    server.folder = lab.publish(tmp_path / "repository", releases.LATE)
    assert own_host.update()["staged"] == releases.LATE.version
    own_host.reboot_into("1", seconds=2 * BOOT_SECONDS)
    check_left(own_host, releases.LATE, LATE, "it was not healthy in time", LATE)
    assert own_host.update()["staged"] is None


def test_a_release_that_cannot_read_the_declaration_is_left_and_puts_no_older_one_in_force(
    own_host: Host, server: RepositoryServer, next_repository: Path, declaration: str
) -> None:
    host, server.folder = own_host, next_repository
    host.apply(declaration.replace("first", "second"))
    assert host.update()["staged"] == "2"
    host.shell("echo 'nonsense: 1' >>/var/lib/hostctl/current/host.yaml; sync")
    kept = "readlink /var/lib/hostctl/current; ls /var/lib/hostctl/generations; cat /etc/motd"
    before, boot = host.shell(kept), host.boot_id()

    def back() -> bool:
        return host.boot_id() != boot and host.shell(". /usr/lib/os-release; echo $IMAGE_VERSION") == "1"

    host.run("systemctl", "reboot", check=False)
    host.wait_for("release 1 runs", back, 2 * BOOT_SECONDS)
    host.wait_booted()
    assert "vmtest_2+0-1.efi" in host.entries()
    assert host.shell(kept) == before
    (event,) = host.events("bad", "2")
    assert "release 2 cannot read generation 2; what is in force stays so" in str(event["lines"])


def test_a_blessed_release_whose_disk_forgets_is_left(
    updated_host: Host, server: RepositoryServer, next_repository: Path
) -> None:
    host, server.folder = updated_host, next_repository
    before, offset = host.boot_id(), root_offset(host, "vmtest_2")
    host.machine.power_cut()
    run(["qemu-io", "-c", f"write -P 0x5a {offset + SUPERBLOCK} {SECTOR}", host.machine.config.disk], timeout=60)
    host.machine = Machine.start(host.machine.config)
    host.wait_release("1", before, 3 * BOOT_SECONDS)
    host.machine.wait_for_serial("it did not come up three times", 1)
    assert host.update()["staged"] is None
    host.text("hostctl", "health")
