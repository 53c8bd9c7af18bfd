"""Nobody changes a running host behind its declaration's back, and what is declared is in effect."""

import re

import pytest
from hostctl_lab.host import Host, WaitError

WRITABLE = ("/var/tmp", "/var/home/ops", "/tmp", "/run", "/dev/shm", "/dev", "/efi")
FILE_SYSTEMS = ("ext4", "tmpfs", "devtmpfs", "vfat", "overlay", "ramfs", "erofs")
LOOPBACK6 = "00000000000000000000000001000000"
EPHEMERAL = 32768  # /proc/sys/net/ipv4/ip_local_port_range: from here on they are of who asks, for example for the time
IDLE_SECONDS = 90.0  # the agent ends 30 s after its last call


@pytest.mark.parametrize(
    "path", ["/new", "/usr/bin/new", "/usr/lib/os-release", "/etc/new", "/etc/passwd", "/boot/new"]
)
def test_root_cannot_write_to_the_system(host: Host, path: str) -> None:
    assert "Read-only file system" in host.fails("sh", "-c", f"echo x >> {path}")


@pytest.mark.parametrize("path", ["/", "/etc"])
def test_root_cannot_remount_the_system_for_writing(host: Host, path: str) -> None:
    host.fails("mount", "-o", "remount,rw", path)
    assert "Read-only file system" in host.fails("sh", "-c", f"echo x > {path}/new")


@pytest.mark.parametrize("folder", WRITABLE)
def test_nothing_written_can_be_executed(host: Host, folder: str) -> None:
    program = f"{folder}/program"
    host.run("cp", "/usr/bin/true", program)
    host.run("chmod", "755", program)
    try:
        assert "Permission denied" in host.fails(program)
    finally:
        host.run("rm", program)


def test_no_file_system_is_writable_and_executable(host: Host) -> None:
    found = []
    for line in host.text("cat", "/proc/self/mounts").splitlines():
        _, _, kind, options, *_ = line.split()
        words = options.split(",")
        if kind in FILE_SYSTEMS and "rw" in words and not {"nosuid", "noexec"} <= set(words):
            found.append(line)
    assert found == []


def test_the_declaration_is_in_effect(host: Host) -> None:
    assert host.text("hostname") == "web-1"
    assert host.text("cat", "/etc/motd") == "first"
    assert host.text("sysctl", "-n", "net.ipv4.tcp_keepalive_time") == "600"
    assert host.text("sysctl", "-n", "kernel.kptr_restrict") == "1", "the release's own is 2"
    assert host.text("sysctl", "-n", "vm.memfd_noexec") == "1"
    assert host.text("date", "+%Z") in ("CET", "CEST")
    assert host.status()["generation"] == 1


def test_the_declared_user_logs_in_and_may_become_root(host: Host) -> None:
    assert host.run("id", "-un", user="ops").text.strip() == "ops"
    assert host.run("sudo", "-n", "id", "-u", user="ops").text.strip() == "0"
    assert host.run("sh", "-c", "cd && pwd", user="ops").text.strip() == "/var/home/ops"


def test_secure_boot_and_verity_are_on(host: Host) -> None:
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert host.text("od", "-An", "-tu1", "-j4", "-N1", variable).strip() == "1"
    assert re.search(r"^status\s+: verified$|\bV$", host.text("dmsetup", "status", "root"), re.MULTILINE)


def test_only_the_doors_that_are_meant_are_open(host: Host) -> None:
    ports = set()
    for line in host.text("cat", *(f"/proc/net/{kind}" for kind in ("tcp", "tcp6", "udp", "udp6"))).splitlines():
        _, local, _, state, *_ = line.split()
        address, _, port = local.partition(":")
        open_to_all = not address.endswith("7F") and address != LOOPBACK6
        if state in ("0A", "07") and open_to_all:  # listens, or is not connected
            ports.add(int(port, 16))
    assert {22} <= {port for port in ports if port < EPHEMERAL} <= {22, 68, 546}, "ssh, and a client of DHCP"


def test_no_unit_comes_with_the_machine(host: Host) -> None:
    assert host.run("ls", "/run/credentials/@system/systemd.extra-unit.intruder.service").status == 0
    assert host.run("systemctl", "cat", "intruder.service", check=False).status != 0


def test_nothing_of_ours_stays_resident(host: Host) -> None:
    def ended() -> bool:
        return host.run("systemctl", "is-active", "hostd.service", check=False).text.strip() == "inactive"

    host.text("hostctl", "apply", "--json", "-", stdin=host.text("cat", "/var/lib/hostctl/current/host.yaml") + "\n")
    host.wait_for("the agent has ended", ended, IDLE_SECONDS)
    processes = host.text("ps", "-eo", "args")
    assert [line for line in processes.splitlines() if re.search(r"hostctl|python|/units/", line)] == []


def test_no_unit_failed(host: Host) -> None:
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_a_wait_says_what_it_waited_for(host: Host) -> None:
    with pytest.raises(WaitError, match="until pigs fly"):
        host.wait_for("pigs fly", lambda: False, 3)
