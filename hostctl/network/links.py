"""The links of the networks: bridges, and a veth pair or macvlan link from each network into its workloads' namespaces.

A thin edge over rtnetlink(7). It decides nothing, see :mod:`hostctl.network.work`. What is the same for every workload
of a network is encoded once, see :mod:`hostctl.network.messages`, so that many workloads are connected in a few system
calls each.

Hardware addresses are derived from the IPv4 addresses, so they outlive restarts and nobody sets them later.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network import namespaces
from hostctl.network.messages import (
    HAIRPIN,
    Batch,
    Finish,
    Inside,
    Place,
    Veth,
    channel,
    exchange,
    hardware_address,
    macvlan,
)
from hostctl.network.model import Address, Attachment, Network, NetworkPlan, WorkloadNetwork
from hostctl.network.rtnetlink import IPRoute, NetlinkError
from hostctl.network.work import Link, alias, bridge_alias, host_side, inside

IFF_UP = 1  # <linux/if.h>
ENODEV = 19
CHUNK = 64  # workloads whose namespaces are open at once


class LinkError(HostctlError):
    """The kernel refused a change of a link."""

    id = "network-link-failed"


def _set(path: str, value: str) -> None:
    """Write a kernel setting; that of a protocol that this kernel does not have is no matter."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


def _read(route: IPRoute) -> tuple[Link, ...]:
    links = []
    for message in route.get_links():
        info = message.get_attr("IFLA_LINKINFO")
        links.append(
            Link(
                index=int(message["index"]),
                name=str(message.get_attr("IFLA_IFNAME")),
                kind=str(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
                alias=str(message.get_attr("IFLA_IFALIAS") or ""),
                master=int(message.get_attr("IFLA_MASTER") or 0),
                up=bool(message["flags"] & IFF_UP),
            )
        )
    return tuple(links)


def nested(place: Path) -> tuple[Link, ...]:
    """Return all links inside the network namespace pinned at ``place``; none if there is no such namespace."""
    try:
        with namespaces.inside(place), IPRoute() as route:
            return _read(route)
    except OSError:
        return ()


class Links:
    """One rtnetlink socket in the host's network namespace. To be closed."""

    def __init__(self) -> None:
        self.route = IPRoute()

    def close(self) -> None:
        """Close the socket."""
        self.route.close()

    def all(self) -> tuple[Link, ...]:
        """Return all links of the host."""
        return _read(self.route)

    def addresses(self) -> frozenset[Address]:
        """Return all addresses of the host."""
        own = (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in self.route.get_addr())
        return frozenset(ip_address(str(address)) for address in own if address)

    def remove(self, link: Link) -> None:
        """Remove a link, and with it its peer; one that is gone already is fine.

        Raises:
            LinkError: the kernel refused.
        """
        try:
            self.route.link("del", index=link.index)
        except NetlinkError as error:
            if error.code != ENODEV:
                raise LinkError(f"link {link.name} cannot be removed", details=str(error)) from error

    def make_bridge(self, network: Network) -> None:
        """Make and configure a network's bridge.

        Raises:
            LinkError: the kernel refused.
        """
        name, gateway = network.bridge, network.gateway or network.subnet[1]
        try:
            options = {} if network.mtu is None else {"mtu": network.mtu}
            self.route.link("add", ifname=name, kind="bridge", address=hardware_address("02", gateway), **options)
            index = socket.if_nametoindex(name)
            # Answers to the host's own 127.0.0.1 come back over the bridge; strangers are dropped by the packet filter.
            _set(f"/proc/sys/net/ipv4/conf/{name}/route_localnet", "1")
            _set(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1" if network.subnet6 is None else "0")
            self.route.addr("add", index=index, address=str(gateway), prefixlen=network.subnet.prefixlen)
            if network.subnet6 is not None:
                _set(f"/proc/sys/net/ipv6/conf/{name}/accept_ra", "0")
                _set(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "0")  # the address is there at once, and ours
                address6 = str(network.gateway6)
                self.route.addr("add", index=index, address=address6, prefixlen=network.subnet6.prefixlen)
            self.route.link("set", index=index, state="up")
            self.route.link("set", index=index, ifalias=bridge_alias(network))
        except (NetlinkError, OSError, ValueError) as error:
            raise LinkError(f"bridge {name} cannot be made", details=str(error)) from error

    def attach(self, link: Link, bridge: str) -> None:
        """Make a link a port of a bridge.

        Raises:
            LinkError: the kernel refused.
        """
        try:
            self.route.link("set", index=link.index, master=socket.if_nametoindex(bridge))
            self.route.brport("set", index=link.index, mode=HAIRPIN)
        except (NetlinkError, OSError) as error:
            raise LinkError(f"link {link.name} cannot join the bridge", details=str(error)) from error

    def without_parent(self, plan: NetworkPlan, workloads: Iterable[WorkloadNetwork]) -> dict[str, LinkError]:
        """Return the workloads that are to be on a macvlan network whose parent is not there, with what to say."""
        there = {name for _, name in socket.if_nameindex()}
        missing = {
            each.name: each.parent for each in plan.networks if each.driver == "macvlan" and each.parent not in there
        }
        return {
            workload.key: LinkError(
                f"workload {workload.key} cannot be connected",
                details=f"network {place.network} is in that of the link {missing[place.network]}, which is not there",
            )
            for workload in workloads
            for place in workload.attachments
            if place.network in missing
        }

    def connect(
        self,
        layout: HostLayout,
        plan: NetworkPlan,
        workloads: Sequence[WorkloadNetwork],
        join: Mapping[str, Collection[int]],
    ) -> dict[str, LinkError]:
        """Connect workloads, whose namespaces are pinned, to their networks.

        Args:
            layout: the host.
            plan: what is wanted.
            workloads: of it, those to connect.
            join: of some of them, by name, the positions of the networks that they lack; others lack all.

        Returns:
            What failed, by workload; the links of these do not count as finished.
        """
        failed: dict[str, LinkError] = {}
        with _Connector(layout, plan, join) as connector:
            for first in range(0, len(workloads), CHUNK):
                failed |= connector.connect(workloads[first : first + CHUNK])
        return failed


class _Connector:
    """Connects workloads in three steps: their links, what is inside their namespaces, the marks of the finished."""

    def __init__(self, layout: HostLayout, plan: NetworkPlan, join: Mapping[str, Collection[int]]) -> None:
        self.layout, self.plan, self.join = layout, plan, join
        self.networks = {network.name: network for network in plan.networks}
        self.socket = channel()
        self.veth, self.finish = Veth(), Finish()
        self.inner = Inside()
        self.failed: dict[str, LinkError] = {}

    def __enter__(self) -> _Connector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def connect(self, workloads: Sequence[WorkloadNetwork]) -> dict[str, LinkError]:
        """Connect some workloads; see :meth:`Links.connect`."""
        self.failed = {}
        self._make_links(workloads)
        for workload in self._left(workloads):
            try:
                with namespaces.inside(namespaces.network_namespace(self.layout, workload.key)):
                    self._configure(workload)
            except (OSError, ValueError) as error:
                self._fail(workload.key, str(error))
        self._finish(self._left(workloads))
        return self.failed

    def _lacking(self, workload: WorkloadNetwork) -> Iterator[tuple[int, str, Attachment]]:
        """Yield position, interface and place of each network that a workload is to be connected to."""
        for position, place in enumerate(workload.attachments):
            if position in self.join.get(workload.key, (position,)):
                yield position, inside(workload.interface(position)), place

    def _left(self, workloads: Sequence[WorkloadNetwork]) -> list[WorkloadNetwork]:
        return [workload for workload in workloads if workload.key not in self.failed]

    def _fail(self, name: str, why: str) -> None:
        self.failed.setdefault(name, LinkError(f"workload {name} cannot be connected", details=why))

    def _send(self, batch: Batch) -> None:
        for name, error in exchange(self.socket, batch):
            self._fail(name, os.strerror(error))

    def _make_links(self, workloads: Sequence[WorkloadNetwork]) -> None:
        batch: Batch = []
        descriptors = []
        try:
            for workload in workloads:
                try:
                    place = namespaces.network_namespace(self.layout, workload.key)
                    descriptors.append(os.open(place, os.O_RDONLY | os.O_CLOEXEC))
                    batch += [(workload.key, link) for link in self._links(workload, descriptors[-1])]
                except OSError as error:
                    self._fail(workload.key, f"{error.strerror}: {error.filename or 'a link of the host'}")
            self._send(batch)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _links(self, workload: WorkloadNetwork, namespace: int) -> list[bytes]:
        made = []
        for _, interface, place in self._lacking(workload):
            network = self.networks[place.network]
            if network.driver == "macvlan":
                made.append(macvlan(network, interface, place.address, namespace))
            else:
                name = host_side(workload.key, network.name)
                made.append(self.veth.message(network, name, interface, place.address, namespace))
        return made

    def _configure(self, workload: WorkloadNetwork) -> None:
        """Bring up loopback and the workload's side, from inside its namespace."""
        out = self.plan.way_out(workload)
        batch: Batch = []
        if workload.key not in self.join:
            # The workload's own users may listen on any port there: nobody else's ports are in reach.
            _set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
            batch.append(("lo", self.inner.loopback))
        for position, name, place in self._lacking(workload):
            network = self.networks[place.network]
            if network.subnet6 is None:
                _set(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
            elif network.driver == "bridge":  # in a macvlan network the router says where the outside is
                _set(f"/proc/sys/net/ipv6/conf/{name}/accept_ra", "0")
            _set(f"/proc/sys/net/ipv6/conf/{name}/autoconf", "0")
            where = Place(network=network, index=socket.if_nametoindex(name), leads_out=place is out)
            batch += [(name, each) for each in self.inner.messages(where, place)]
            if network.driver == "macvlan":
                batch.append((name, self.finish.name(where.index, alias(self.plan, workload, position))))
        with channel() as inner:
            for name, error in exchange(inner, batch):
                self._fail(workload.key, f"{name}: {os.strerror(error)}")

    def _finish(self, workloads: Sequence[WorkloadNetwork]) -> None:
        batch: Batch = []
        for workload in workloads:
            for position, _, place in self._lacking(workload):
                if self.networks[place.network].driver == "macvlan":
                    continue
                name = host_side(workload.key, place.network)
                _set(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")
                index, mark = socket.if_nametoindex(name), alias(self.plan, workload, position)
                batch += [(workload.key, self.finish.port(index)), (workload.key, self.finish.name(index, mark))]
        self._send(batch)
