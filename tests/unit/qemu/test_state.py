from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostctl_qemu.machine import listen
from hostctl_qemu.state import State, StateError, is_running, load_state

from hostctl.cli.vm import forward, mebibytes
from hostctl.errors import UsageError


def test_fresh_folder_has_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


def test_state_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"disk_sha256": "ab", "ssh_port": 4022}))
    assert load_state(tmp_path) == State(disk_sha256="ab", ssh_port=4022)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"disk_sha256": "ab", "ssh_port": "x"}'])
def test_damaged_state_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StateError) as caught:
        load_state(tmp_path)
    assert "remove" in caught.value.hint


def test_only_a_listening_socket_means_running(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "missing")
    server = listen(tmp_path, "qmp.sock")
    assert is_running(tmp_path)
    server.close()
    assert (tmp_path / "qmp.sock").exists()
    assert not is_running(tmp_path)


def test_ports_of_this_computer_only() -> None:
    assert forward("8080:80").guest_port == 80
    for text in ("0.0.0.0:80:80", "53:53/udp", "http"):
        with pytest.raises(UsageError):
            forward(text)


def test_memory_is_in_mib() -> None:
    assert mebibytes("1.5G") == 1536
    for text in ("64M", "lots"):
        with pytest.raises(UsageError):
            mebibytes(text)
