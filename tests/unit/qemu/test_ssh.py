from __future__ import annotations

import shlex
import socket
import stat
from pathlib import Path

import pytest
from hostctl_qemu.ssh import Ssh, SshError, make_key


def test_words_arrive_as_they_are(tmp_path: Path) -> None:
    argv = ["printf", "%s", "a b; rm -rf $HOME 'x'"]
    words = Ssh(folder=tmp_path, port=22).command(argv)
    assert shlex.split(words[-1]) == argv
    assert words[-3:-1] == ["root@127.0.0.1", "--"]


def test_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = make_key(tmp_path)
    assert first.startswith("ssh-ed25519 ")
    assert make_key(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "id_ed25519").stat().st_mode) == 0o600


def test_closed_port_ends_at_the_deadline_with_the_reason(tmp_path: Path) -> None:
    make_key(tmp_path)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: refused
        with pytest.raises(SshError) as caught:
            Ssh(folder=tmp_path, port=held.getsockname()[1]).wait_ready(0.3)
    assert "refused" in caught.value.details
