"""Declarations on a running host: planned, applied live, refused, taken back, kept over a reboot."""

import dataclasses
import json

import pytest
from hostctl_lab.host import Host
from hostctl_qemu.machine import Machine
from hostctl_qemu.state import HOST_DECLARATION

LIVE = ("hostname: web-1", "hostname: web-2"), ('"600"', '"700"'), ("first", "second"), ("Europe/Berlin", "Asia/Tokyo")


def changed(declaration: str, *pairs: tuple[str, str]) -> str:
    """Return a declaration with texts replaced, each of which must be there."""
    for old, new in pairs:
        assert old in declaration
        declaration = declaration.replace(old, new)
    return declaration


def in_force(host: Host) -> tuple[str, ...]:
    """Return what must not change when a declaration is refused."""
    return (
        host.text("readlink", "/var/lib/hostctl/current"),
        host.shell("ls /var/lib/hostctl/generations"),
        host.text("hostname"),
        host.text("cat", "/etc/motd"),
        host.text("sysctl", "-n", "net.ipv4.tcp_keepalive_time"),
    )


@pytest.fixture(scope="module")
def live(declaration: str) -> str:
    """Return the declaration that the first test puts in force."""
    return changed(declaration, *LIVE)


def test_a_plan_tells_what_would_change_and_changes_nothing(host: Host, declaration: str, live: str) -> None:
    before = in_force(host)
    assert host.text("hostctl", "plan", "-", stdin=declaration) == "nothing would change"
    planned = host.run("hostctl", "plan", "--exit-code", "--json", "-", stdin=live, check=False)
    assert planned.status == 3
    assert sorted(action["area"] for action in json.loads(planned.stdout)) == ["file", "hostname", "sysctl", "timezone"]
    assert in_force(host) == before


def test_a_change_is_live_without_a_reboot(host: Host, live: str) -> None:
    boot = host.boot_id()
    assert "generation 2 is in force" in host.apply(live)
    assert in_force(host)[0] == "generations/2"
    assert in_force(host)[2:] == ("web-2", "second", "700")
    assert host.text("date", "+%Z") == "JST"
    assert "Read-only file system" in host.fails("sh", "-c", "echo x >> /etc/motd")
    assert host.boot_id() == boot


def test_applying_again_changes_nothing(host: Host, live: str) -> None:
    before = in_force(host)
    assert "nothing to change" in host.apply(live)
    assert in_force(host) == before


def test_a_wrong_declaration_is_refused_with_its_place(host: Host, live: str) -> None:
    before = in_force(host)
    wrong = changed(live, ("timezone: ", "timezon: ")) + "nonsense: 1\n"
    said = host.fails("hostctl", "apply", "-", stdin=wrong)
    line = wrong.splitlines().index("timezon: Asia/Tokyo") + 1
    assert f"standard input:{line}:1" in said
    assert "timezone" in said.replace("timezon:", "")
    assert f"standard input:{len(wrong.splitlines())}:1" in said
    assert in_force(host) == before


def test_a_declaration_that_is_not_healthy_is_taken_back(host: Host, live: str) -> None:
    before = in_force(host)
    more = ("sysctl:\n", 'sysctl:\n  vm.overcommit_ratio: "51"\n')
    unhealthy = changed(live, ("second", "third"), ("web-2", "web-3"), more)
    unhealthy += "  absent: {tcp: 'localhost:9', within: 3s}\n"
    said = host.fails("hostctl", "apply", "-", stdin=unhealthy)
    assert "taken back" in said
    assert "absent" in said
    after = in_force(host)
    assert (after[0], after[2:]) == (before[0], before[2:])
    assert host.text("sysctl", "-n", "vm.overcommit_ratio") == "50"


def test_users_come_and_go(host: Host, live: str) -> None:
    key = live.partition('ssh_keys: ["')[2].partition('"')[0]
    host.apply(live.replace("users:\n", f"users:\n  eve: {{ssh_keys: ['{key}']}}\n"))
    assert host.run("id", "-un", user="eve").text.strip() == "eve"
    assert host.run("sudo", "-n", "true", user="eve", check=False).status != 0
    host.apply(live)
    assert host.run("id", "eve", check=False).status != 0


def test_a_reboot_without_the_credential_keeps_the_machine(host: Host, live: str) -> None:
    machine_id, boot = host.text("cat", "/etc/machine-id"), host.boot_id()
    kept = {name: value for name, value in host.machine.config.credentials.items() if name != HOST_DECLARATION}
    host.run("sync")
    host.machine.power_cut()
    host.machine = Machine.start(dataclasses.replace(host.machine.config, credentials=kept))
    host.wait_booted()
    assert host.boot_id() != boot
    assert in_force(host)[2:] == ("web-2", "second", "700")
    assert host.text("cat", "/etc/machine-id") == machine_id
    assert host.run("sudo", "-n", "id", "-u", user="ops").text.strip() == "0"
    assert host.text("hostctl", "plan", "-", stdin=live) == "nothing would change"
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_a_boot_after_a_power_cut_lets_nothing_run_of_what_was_tried(host: Host, live: str) -> None:
    before = in_force(host)
    tried = f"{live}  absent: {{tcp: 'localhost:9', within: 10m}}\nworkloads: {{extra: {{image: 'localhost/box:1'}}}}\n"
    host.text("tee", "/run/wanted.yaml", stdin=tried)
    runs = "until systemctl is-active -q workload-extra.service; do sleep 0.2; done; sync"
    host.shell(f"hostctl apply /run/wanted.yaml >/run/said 2>&1 & {runs}")
    host.power_cycle()
    host.wait_booted()
    host.wait_for("it is settled", lambda: host.shell("ls /var/lib/hostctl").split().count("pending") == 0, 120)
    after = in_force(host)
    assert (after[0], after[2:]) == (before[0], before[2:])
    assert host.text("systemctl", "show", "-P", "ActiveState", "workload-extra.service") == "inactive"
    assert host.run("test", "-e", "/sys/fs/cgroup/system.slice/workload-extra.service", check=False).status != 0
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_a_kernel_setting_that_is_not_declared_any_more_is_the_kernels_again(host: Host, live: str) -> None:
    host.apply(changed(live, ('  net.ipv4.tcp_keepalive_time: "700"\n', "")))
    assert host.text("sysctl", "-n", "net.ipv4.tcp_keepalive_time") == "7200"  # though this boot began with 700
    host.apply(live)
    assert host.text("sysctl", "-n", "net.ipv4.tcp_keepalive_time") == "700"
