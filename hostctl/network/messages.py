"""Messages of rtnetlink(7) for many workloads: encoded by pyroute2 once a network, then filled in for each workload.

Encoding one message takes pyroute2 half a millisecond, sending it a tenth of that. So a message that only differs in
addresses, numbers and names of fixed length is encoded with marks in their places, and the marks are replaced.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hostctl.network.model import Attachment, Network
from hostctl.network.rtnetlink import IPBatch

HAIRPIN = 1  # IFLA_BRPORT_MODE, <linux/if_link.h>: with br_netfilter a port that a workload asks itself for needs it
ONE_QUEUE = {"num_tx_queues": 1, "num_rx_queues": 1}
"""A veth link uses one queue each way. By default it makes one for each processor, tells udev, and takes them back."""
MACVLAN_BRIDGE = "bridge"  # siblings reach each other
IFA_F_NODAD = 0x02  # <linux/if_addr.h>: nobody else can have the address, so it is there at once
_NLMSG_ERROR, _HEADER = 2, struct.Struct("=IHHII")  # <linux/netlink.h>, struct nlmsghdr
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10  # acknowledgements without what they acknowledge
_BURST = 64  # messages at once: the acknowledgements must fit into the socket's buffer

Batch = list[tuple[str, bytes]]
"""Messages, each with the name that its failure is reported under."""

_NAME, _INDEX, _NAMESPACE = "hc??????????\x01\x02", 0x7A6B5C4D, 0x4D5C6B7A
_ADDRESS, _ADDRESS6 = IPv4Address("203.0.113.233"), IPv6Address("2001:db8:233::e9e9")  # documentation, RFC 5737, 3849
_MAC, _PEER_MAC = "fe:fe:5a:a5:5a:01", "02:fe:5a:a5:5a:02"


def hardware_address(prefix: str, address: IPv4Address) -> str:
    """Return a locally administered unicast hardware address (IEEE 802: second bit of the first octet)."""
    return ":".join((prefix, "68", *(f"{octet:02x}" for octet in address.packed)))


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


class Template:
    """One or several encoded messages with marks."""

    def __init__(self, data: bytes, *marks: bytes) -> None:
        """Take messages; every mark must stand in them.

        Raises:
            ValueError: one does not, so that something would be left as it is.
        """
        self.parts: list[bytes | int] = [data]
        for number, mark in enumerate(marks):
            if mark not in data:
                raise ValueError(f"mark {mark!r} does not occur")
            self.parts = [piece for part in self.parts for piece in _split(part, mark, number)]

    def fill(self, *values: bytes) -> bytes:
        """Return the messages with values of the marks' lengths in their places."""
        return b"".join(part if isinstance(part, bytes) else values[part] for part in self.parts)


def _split(part: bytes | int, mark: bytes, number: int) -> Iterator[bytes | int]:
    if isinstance(part, int):
        yield part
        return
    for position, piece in enumerate(part.split(mark)):
        if position:
            yield number
        yield piece


def _encoded(write: Callable[[IPBatch], object]) -> bytes:
    batch = IPBatch()
    try:
        write(batch)
        return bytes(batch.batch)
    finally:
        batch.close()


class Veth:
    """A pair from a bridge of the host into a namespace. The host's side is down: it is not finished."""

    def __init__(self) -> None:
        self.templates: dict[tuple[str, str], Template] = {}

    def message(self, network: Network, name: str, inside: str, address: IPv4Address, namespace: int) -> bytes:
        """Return what makes one.

        Args:
            network: whose bridge it is a port of.
            name: of the host's side, 14 characters.
            inside: name of the workload's side.
            address: the workload's, which the hardware addresses follow from.
            namespace: descriptor of the workload's network namespace.

        Raises:
            OSError: there is no such bridge.
        """
        template = self.templates.get((network.name, inside))
        if template is None:
            template = self.templates[network.name, inside] = self._template(network, inside)
        macs = (_octets(hardware_address(prefix, address)) for prefix in ("fe", "02"))
        return template.fill(name.encode(), _number(namespace), *macs)

    @staticmethod
    def _template(network: Network, inside: str) -> Template:
        size = {} if network.mtu is None else {"mtu": network.mtu}
        size |= ONE_QUEUE
        peer = {"ifname": inside, "net_ns_fd": _NAMESPACE, "address": _PEER_MAC, **size}
        bridge = socket.if_nametoindex(network.bridge)
        data = _encoded(
            lambda batch: batch.link("add", ifname=_NAME, kind="veth", address=_MAC, master=bridge, peer=peer, **size)
        )
        return Template(data, _NAME.encode(), _number(_NAMESPACE), _octets(_MAC), _octets(_PEER_MAC))


def macvlan(network: Network, inside: str, address: IPv4Address, namespace: int) -> bytes:
    """Return what makes a macvlan link of the network's parent, named ``inside``, in a namespace.

    Raises:
        OSError: there is no such parent.
    """
    options: dict[str, object] = {} if network.mtu is None else {"mtu": network.mtu}
    options |= {"link": socket.if_nametoindex(network.parent), "macvlan_mode": MACVLAN_BRIDGE, "net_ns_fd": namespace}
    mac = hardware_address("02", address)
    return _encoded(lambda batch: batch.link("add", ifname=inside, kind="macvlan", address=mac, **options))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A workload's link on a network; ``leads_out`` tells whether the default route goes there."""

    network: Network
    index: int
    leads_out: bool


class Inside:
    """What is configured inside a workload's namespace."""

    def __init__(self) -> None:
        self.loopback = _encoded(lambda batch: batch.link("set", index=1, state="up"))
        self.templates: dict[tuple[str, bool], list[tuple[Template, int]]] = {}

    def messages(self, where: Place, place: Attachment) -> Iterator[bytes]:
        """Yield what gives a link its addresses, brings it up, and sets its routes, in this order."""
        key = (where.network.name, where.leads_out)
        if key not in self.templates:
            self.templates[key] = list(self._templates(where))
        for template, version in self.templates[key]:
            address = place.address6 if version == 6 else place.address
            values = (_number(where.index), address.packed if address is not None else b"")
            yield template.fill(*values)

    @staticmethod
    def _templates(where: Place) -> Iterator[tuple[Template, int]]:
        """Yield the messages with the version of the address that each needs."""
        network, index = where.network, _number(_INDEX)
        length = network.subnet.prefixlen
        add = _encoded(lambda b: b.addr("add", index=_INDEX, address=str(_ADDRESS), prefixlen=length))
        yield Template(add, index, _ADDRESS.packed), 4
        if network.subnet6 is not None:
            length6, flags = network.subnet6.prefixlen, IFA_F_NODAD if network.driver == "bridge" else 0
            add6 = _encoded(
                lambda b: b.addr("add", index=_INDEX, address=str(_ADDRESS6), prefixlen=length6, flags=flags)
            )
            yield Template(add6, index, _ADDRESS6.packed), 6
        yield Template(_encoded(lambda b: b.link("set", index=_INDEX, state="up")), index), 4
        if where.leads_out:
            for version, gateway in ((4, network.gateway), (6, network.gateway6)):
                if gateway is not None:
                    family = socket.AF_INET if version == 4 else socket.AF_INET6
                    yield Template(_encoded(_default_route(str(gateway), family)), index), version


def _default_route(gateway: str, family: int) -> Callable[[IPBatch], object]:
    return lambda batch: batch.route("replace", dst="default", gateway=gateway, oif=_INDEX, family=family)


class Finish:
    """Marks links as finished."""

    def __init__(self) -> None:
        data = _encoded(lambda batch: batch.brport("set", index=_INDEX, mode=HAIRPIN))
        self.ports = Template(data, _number(_INDEX))
        self.names: dict[int, Template] = {}

    def port(self, index: int) -> bytes:
        """Return what sets how a port of a bridge works."""
        return self.ports.fill(_number(index))

    def name(self, index: int, alias: str) -> bytes:
        """Return what gives a link its alias and brings it up."""
        octets = alias.encode()
        if len(octets) not in self.names:
            mark = "\x01" * len(octets)
            data = _encoded(lambda batch: batch.link("set", index=_INDEX, ifalias=mark, state="up"))
            self.names[len(octets)] = Template(data, _number(_INDEX), mark.encode())
        return self.names[len(octets)].fill(_number(index), octets)


def channel() -> socket.socket:
    """Return a socket of rtnetlink in the network namespace of the caller."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    made.bind((0, 0))
    return made


def exchange(link: socket.socket, batch: Batch) -> Iterator[tuple[str, int]]:
    """Send messages, each of which asks for an acknowledgement, and yield the failures: name and error's number.

    The kernel does one after the other, whatever becomes of those before.

    Raises:
        OSError: the kernel cannot be asked at all.
    """
    for first in range(0, len(batch), _BURST):
        burst = batch[first : first + _BURST]
        data = bytearray()
        for number, (_, message) in enumerate(burst, 1):
            length, kind, flags, _, port = _HEADER.unpack_from(message)
            data += _HEADER.pack(length, kind, flags, number, port) + message[_HEADER.size :]
        link.send(data)
        left = len(burst)
        while left:
            answer, at = link.recv(1 << 17), 0
            while at < len(answer):
                length, kind, _, number, _ = _HEADER.unpack_from(answer, at)
                if kind == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", answer, at + _HEADER.size)
                    left -= 1
                    if error:
                        yield burst[number - 1][0], -error
                at += (length + 3) & ~3
