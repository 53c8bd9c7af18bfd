"""When a host restarts by itself into a release: in a window, not on hold, in its turn, after a bounded wait.

One machine goes through all of it, in the order in which the tests stand; it restarts once, in the last one.
"""

import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hostctl_lab.host import BOOT_SECONDS, UPDATE_SECONDS, Host
from hostctl_lab.lock_server import LockServer
from hostctl_lab.server import GUEST_ADDRESS, RepositoryServer

BOX = "/usr/bin/busybox"
INHIBIT = "/run/hostctl/inhibit"
DECIDE_SECONDS = 90.0
DELAY = 180.0
WORKLOADS = f"""
workloads:
  keeper:
    image: localhost/box:1
    command: [{BOX}, sleep, "1000000"]
    may_delay_reboot: true
    read_only: true
    user: 1000:1000
"""


@pytest.fixture(scope="module")
def lock_server() -> Iterator[LockServer]:
    """Return a lock server whose one turn somebody else has."""
    with LockServer() as server:
        server.holders["web"] = {"another"}
        yield server


def with_policy(declaration: str, server: RepositoryServer, policy: str, more: str = "") -> str:
    """Return the declaration with another update policy."""
    line = next(line for line in declaration.splitlines() if line.startswith("update:"))
    return declaration.replace(line, f'update: {{repository: "{server.url}", {policy}}}') + more


def waits_for(host: Host, words: str, seconds: float = DECIDE_SECONDS) -> None:
    """Return once the status says that the host waits for something."""
    host.wait_for(f"the host says {words!r}", lambda: words in host.text("hostctl", "status"), seconds)


def test_a_release_is_taken_at_once_and_waits_for_its_window(
    host: Host, declaration: str, server: RepositoryServer, next_repository: Path
) -> None:
    server.folder = next_repository
    before = host.boot_id()
    today = datetime.fromisoformat(host.text("date", "+%Y-%m-%dT%H:%M:%S"))
    opens = today + timedelta(days=3)
    window = f"strategy: window, window: '{opens:%a} 03:00-05:00', jitter: 1s"
    host.apply(with_policy(declaration, server, window))
    waits_for(host, f"release 2 waits for its window, {opens:%a %Y-%m-%d} 03:00", UPDATE_SECONDS)
    assert "vmtest_2+1.efi" in host.entries()
    assert host.boot_id() == before


def test_on_hold_nothing_is_taken(host: Host) -> None:
    host.text("hostctl", "hold", "--reason", "release party", "--until", "1h")
    waits_for(host, "by root: release party")
    done = host.run("hostctl", "update", check=False)
    assert done.status == 75
    assert b"hostctl hold --release" in done.stderr
    assert "updates are taken again" in host.text("hostctl", "hold", "--release")
    waits_for(host, "release 2 waits for its window")


def test_inhibitors_hold_a_restart_back(
    host: Host, declaration: str, server: RepositoryServer, lock_server: LockServer
) -> None:
    before = host.boot_id()
    host.apply(with_policy(declaration, server, "strategy: manual", WORKLOADS))
    inside = ["hostctl", "exec", "keeper", "--", BOX]
    host.text(*inside, "cat", INHIBIT)
    assert "Read-only" in host.fails(*inside, "touch", INHIBIT)
    # The image has no program for locks, so one of the host takes it, on the file that the workload has.
    pid = host.text("systemctl", "show", "workload-keeper.service", "-P", "MainPID")
    take = ["flock", f"/proc/{pid}/root{INHIBIT}", "sleep", "infinity"]
    host.text("systemd-run", "--unit=keeping", "--collect", *take)
    inhibit = ["systemd-inhibit", "--what=shutdown", "--mode=block", "--who=backup", "--why=half done"]
    host.text("systemd-run", "--unit=backup", "--collect", *inhibit, "sleep", "infinity")
    lock = f"lock: {{url: 'http://{GUEST_ADDRESS}:{lock_server.port}', group: web}}"
    policy = f"strategy: lock, {lock}, jitter: 1s, notice: 20s, delay: {DELAY:g}s"
    host.apply(with_policy(declaration, server, policy, WORKLOADS))
    waits_for(host, "held back by backup (half done), workload keeper, for")
    assert lock_server.asked == []
    assert host.boot_id() == before


def test_a_turn_is_waited_for_people_are_warned_and_the_turn_is_given_back_after_the_boot(
    host: Host, lock_server: LockServer
) -> None:
    before = host.boot_id()
    waits_for(host, "409 (failed_lock_semaphore_full", DELAY + DECIDE_SECONDS)
    terminal = [*host.ssh.command()[:1], "-tt", *host.ssh.command(["sleep", "infinity"])[1:]]
    with subprocess.Popen(terminal, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as person:
        host.wait_for("somebody is there", lambda: host.shell("ls /dev/pts") != "ptmx", DECIDE_SECONDS)
        lock_server.holders["web"].clear()
        host.text("hostctl", "hold", "--release")  # nothing to release, but a reason to decide again
        host.wait_release("2", before, 2 * BOOT_SECONDS)
        person.kill()
        said = person.stdout.read() if person.stdout else ""
    assert "This host restarts in 20s, into release 2." in said
    host.wait_blessed()
    host.wait_for("the turn is given back", lambda: lock_server.holders["web"] == set(), DECIDE_SECONDS)
    asked = list(lock_server.paths())
    assert (asked.count("steady-state"), asked[-1]) == (1, "steady-state")
    assert {row.group for row in lock_server.asked} == {"web"}
    assert host.text("cat", "/etc/machine-id") not in {row.id for row in lock_server.asked}
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
    assert host.text("find", "/run/hostctl/inhibit", "-type", "f") == "/run/hostctl/inhibit/keeper"
