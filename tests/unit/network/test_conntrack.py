"""The messages of ctnetlink: what the kernel tells is read, and where it tells nothing the pass goes on."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from hostctl.config.references import PortMapping
from hostctl.network import conntrack
from hostctl.network.allocate import Wanted, allocate

# What Linux 6.12 says of 192.0.2.9:5000 -> 192.0.2.1:514, answered from 10.88.0.2:1514; some more attributes follow.
ENTRY = bytes.fromhex(
    "02000000 34000180 14000180 08000100c0000209 08000200c0000201 1c000280 0500010011000000 0600020013880000"
    "0600030002020000 34000280 14000180 080001000a580002 08000200c0000209 1c000280 0500010011000000"
    "0600020005ea0000 0600030013880000 0800030000000188 08000c00cafe0001 0800070000000078"
)
PLAN = allocate([Wanted(name="log", userns_start=0x10000000, ports=(PortMapping.parse("514:514/udp"),))])


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the kernel's end of a socket, and ours."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(theirs), closing(ours):
        yield theirs, ours


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def test_an_entry_is_read_and_the_kernel_is_asked_for_udp_alone(kernel: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = kernel
    theirs.send(message(0x100, ENTRY) * 2)
    theirs.send(message(3, bytes(4)))
    one, two = conntrack.remembered(ours, socket.AF_INET)
    assert (one.asked, one.port, one.answers, one.answers_from) == (
        ip_address("192.0.2.1"),
        514,
        ip_address("10.88.0.2"),
        1514,
    )
    assert one == two
    assert one.key == ENTRY[4:56] + bytes.fromhex("08000c00cafe0001")
    asked = theirs.recv(100)
    assert struct.unpack_from("=IHH", asked) == (len(asked), 0x101, 0x301)
    assert asked[16:] == bytes.fromhex("02000000 10000180 0c000280 0500010011000000 0c001980 0800010008000000")


def test_a_kernel_that_cannot_tell_is_said_and_the_pass_goes_on(
    kernel: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = kernel
    theirs.send(message(2, struct.pack("=i", -errno.EINVAL) + bytes(16)))
    monkeypatch.setattr(socket, "socket", lambda *_: ours)
    with caplog.at_level(logging.WARNING):
        conntrack.decide_anew(PLAN, [])
    assert "Invalid argument. It needs its module nf_conntrack_netlink" in caplog.text
