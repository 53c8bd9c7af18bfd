"""Updates through the firmware: tried and blessed, given up, rolled back, by delta; more is in ``long``."""

import shutil
from pathlib import Path

import pytest
from hostctl_lab import releases
from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.releases import Lab, segments
from hostctl_lab.server import RepositoryServer

pytestmark = pytest.mark.usefixtures("serving_next")


def test_an_update_is_tried_and_blessed(updated_host: Host) -> None:
    host = updated_host
    assert [row[:2] for row in host.history()][-2:] == [("staged", "2"), ("blessed", "2")]
    assert host.entries() == ["vmtest_1.efi", "vmtest_2.efi"]
    assert host.status()["releases"] == ["1", "2"]
    assert host.text("cat", "/etc/motd") == "first"
    assert host.text("hostname") == "web-1"
    assert host.text("cat", "/var/lib/hostctl/current/release").strip() == "2"
    assert host.update() == {"running": "2", "staged": None, "written": False}
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_an_unhealthy_release_is_left_and_not_taken_again(
    updated_host: Host, lab: Lab, server: RepositoryServer, next_repository: Path, tmp_path: Path
) -> None:
    host = updated_host
    server.folder = tmp_path / "repository"
    shutil.copytree(next_repository, server.folder)
    lab.publish(server.folder, releases.UNHEALTHY)
    assert host.update()["staged"] == "3"
    host.reboot_into("2", seconds=2 * BOOT_SECONDS)
    bad = [cause for event, version, cause in host.history() if (event, version) == ("bad", "3")]
    assert len(bad) == 1
    assert "probe" in bad[0]
    assert not host.happened("blessed", "3")
    assert host.update() == {"running": "2", "staged": None, "written": False}
    host.text("hostctl", "health")
    assert host.text("cat", "/var/lib/hostctl/current/release").strip() == "2"
    assert host.text("hostname") == "web-1"


def test_a_rollback_goes_back(updated_host: Host) -> None:
    updated_host.reboot_into("1", "hostctl", "rollback", "--cause", "a test", "--reboot")
    assert ("rolled-back", "2", "to 1: a test") in updated_host.history()
    assert updated_host.update() == {"running": "1", "staged": None, "written": False}
    updated_host.text("hostctl", "health")


def test_a_delta_is_a_small_part_and_boots(
    updated_host: Host, lab: Lab, server: RepositoryServer, next_repository: Path, tmp_path: Path
) -> None:
    host = updated_host
    server.folder = tmp_path / "repository"
    shutil.copytree(next_repository, server.folder)
    lab.publish(server.folder, releases.THIRD, delta_from=("2",))
    outcome = host.update_events()[-1]
    assert (outcome["staged"], outcome["path"]) == ("9", "delta")
    fetched = outcome["fetched"]
    assert isinstance(fetched, int)
    print(f"{fetched} bytes by delta, {segments(server.folder).stat().st_size} by the full payload")
    assert fetched < segments(server.folder).stat().st_size // 20
    host.reboot_into("9")
    host.wait_blessed()
    assert host.entries() == ["vmtest_2.efi", "vmtest_9.efi"]
