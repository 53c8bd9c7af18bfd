"""The connections that the kernel remembers, as far as :mod:`hostctl.network.flows` asks for them. A thin edge.

A busy server has many thousands, and pyroute2 takes a millisecond for one, so the messages of ctnetlink are read here.
Formats: <linux/netfilter/nfnetlink_conntrack.h> and nlattr of netlink(7); addresses and ports are big-endian.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from ipaddress import ip_address
from itertools import chain

from hostctl.network.flows import Flow, stale
from hostctl.network.messages import exchange
from hostctl.network.model import Address, NetworkPlan

log = logging.getLogger(__name__)

NETLINK_NETFILTER = 12
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")  # struct nlmsghdr, struct nlattr
_REQUEST, _ACKNOWLEDGE, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # of the subsystem NFNL_SUBSYS_CTNETLINK
_ASKED, _ANSWERED, _ID, _FILTER = 1, 2, 12, 25  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_FILTER
_ADDRESSES, _PORTS = 1, 2  # CTA_TUPLE_IP: sources are 1 and 3, targets 2 and 4; CTA_TUPLE_PROTO
_PROTOCOL, _SOURCE, _TARGET = 1, 2, 3  # CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
_BY_PROTOCOL = 1 << 3  # in CTA_FILTER_ORIG_FLAGS: what is compared
_NESTED, _KIND = 0x8000, 0x3FFF


def decide_anew(plan: NetworkPlan, local: Collection[Address]) -> None:
    """Let the kernel forget the flows of UDP that lead elsewhere than the published port that they ask for.

    What fails is told and keeps nothing from going on: who begins anew reaches the port in any case.
    """
    try:
        with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)) as link:
            found = chain(remembered(link, socket.AF_INET), remembered(link, socket.AF_INET6))
            wrong = [(f"{flow.asked} port {flow.port}", _forget(flow)) for flow in stale(plan, found, local)]
            for name, error in exchange(link, wrong):
                if error != errno.ENOENT:  # it has ended meanwhile
                    log.warning("a flow of UDP to %s goes on as before: %s", name, os.strerror(error))
    except OSError as error:
        log.warning(
            "who sends UDP since before its port was published or moved goes on elsewhere, because the kernel does not "
            "tell what it remembers: %s. It needs its module nf_conntrack_netlink",
            error.strerror,
        )


def remembered(link: socket.socket, family: int) -> Iterator[Flow]:
    """Yield the flows of UDP of one address family.

    Raises:
        OSError: the kernel does not tell.
    """
    protocol = _attribute(_PORTS | _NESTED, _attribute(_PROTOCOL, bytes([socket.IPPROTO_UDP])))
    compared = _attribute(1, struct.pack("=I", _BY_PROTOCOL))
    wanted = _attribute(_ASKED | _NESTED, protocol) + _attribute(_FILTER | _NESTED, compared)
    link.send(_message(_GET, _DUMP, family, wanted))
    while True:
        answer, at = link.recv(1 << 17), 0
        while at < len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, at)
            body = answer[at + _HEADER.size : at + length]
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, os.strerror(code))
            yield _flow(_attributes(body[4:]))
            at += (length + 3) & ~3


def _flow(entry: dict[int, bytes]) -> Flow:
    ends = []
    for of, source, port in ((_ASKED, False, _TARGET), (_ANSWERED, True, _SOURCE)):
        parts = _attributes(entry[of])
        addresses, ports = _attributes(parts[_ADDRESSES]), _attributes(parts[_PORTS])
        packed = next(addresses[kind] for kind in ((1, 3) if source else (2, 4)) if kind in addresses)
        ends.append((ip_address(packed), int.from_bytes(ports[port], "big")))
    (asked, asked_at), (answers, answers_from) = ends
    key = _attribute(_ASKED | _NESTED, entry[_ASKED]) + _attribute(_ID, entry[_ID])
    return Flow(asked=asked, port=asked_at, answers=answers, answers_from=answers_from, key=key)


def _forget(flow: Flow) -> bytes:
    return _message(_DELETE, _ACKNOWLEDGE, socket.AF_INET if flow.asked.version == 4 else socket.AF_INET6, flow.key)


def _message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + attributes  # struct nfgenmsg
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 0, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _KIND] = data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found
