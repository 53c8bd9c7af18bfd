"""An update through the firmware: taken, tried and blessed. What can go wrong with it is in ``long``."""

import pytest
from hostctl_lab.host import Host

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
