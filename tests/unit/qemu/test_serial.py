from __future__ import annotations

import socket

import pytest
from hostctl_qemu.serial import SerialConsole, SerialTimeoutError


def test_match_over_pieces_and_the_tail_on_failure() -> None:
    near, far = socket.socketpair()
    console = SerialConsole(near)
    far.sendall(b"first\r\nlog")
    far.sendall(b"in: ")
    assert console.wait("^login: $", 5).group(0) == "login: "
    seen = console.position
    with pytest.raises(SerialTimeoutError, match=r"0\.05 s") as caught:
        console.wait("first", 0.05, after=seen)
    assert caught.value.details == ""
    with pytest.raises(SerialTimeoutError) as caught:
        console.wait("never", 0.05)
    assert "login:" in caught.value.details
    far.close()
    with pytest.raises(SerialTimeoutError, match="ended first"):
        console.wait("never", 5)
    console.close()
