"""Devices that are named by links: where these may lead, and what is said otherwise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostctl.workload import device_links


def test_a_link_leads_to_a_serial_port_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, target in (
        ("null", "/dev/null"),
        ("chain", "null"),
        ("file", "plain"),
        ("up", "../x"),
        ("gone", "/dev/tty"),
    ):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "plain").touch()
    for name in ("null", "chain", "file"):
        with pytest.raises(device_links.DeviceLinkError, match=rf"{name} leads to .*, which is no serial port"):
            device_links.followed(str(tmp_path / name))
    with pytest.raises(device_links.DeviceLinkError, match="up is not there; is it plugged in"):
        device_links.followed(str(tmp_path / "up"))
    monkeypatch.setattr(device_links, "TARGET", re.compile("/dev/null"))  # a port that every machine has
    assert device_links.followed(str(tmp_path / "chain")) == "/dev/null"
    assert device_links.rules(["7", "8"], [f"{tmp_path / 'chain'}=rw"]) == (
        "a+ /dev/null - - - - u:7:rw\na+ /dev/null - - - - u:8:rw\n"
    )


@pytest.mark.parametrize("name", ["/dev/ttyS0", "/dev/ttyUSB12", "/dev/ttyACM3", "/dev/ttyAMA1"])
def test_serial_ports_are_known_by_their_names(name: str) -> None:
    assert device_links.TARGET.fullmatch(name)
    assert not device_links.TARGET.fullmatch(f"{name}/../sda")
    assert not device_links.TARGET.fullmatch(f"/dev/x{name.removeprefix('/dev')}")


def test_the_bare_program_says_what_is_wrong(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", device_links.__file__, "7", f"{tmp_path}/by-id=rw"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"device {tmp_path}/by-id is not there; is it plugged in?\n")
