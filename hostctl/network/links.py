"""The links of the private network: the bridge, and a veth pair from it into every workload's namespace.

A thin edge over rtnetlink by pyroute2, for its versions 0.7 (Debian 13) and 0.9; nothing else may import that. It
decides nothing, see :mod:`hostctl.network.work`.

Hardware addresses are derived from the IPv4 addresses, so they outlive restarts and nobody sets them later.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostctl.errors import HostctlError
from hostctl.network import namespaces
from hostctl.network.model import NetworkPlan, WorkloadNetwork
from hostctl.network.work import BRIDGE_ALIAS, Link, alias, host_side

IFF_UP = 1  # <linux/if.h>
HAIRPIN = 1  # IFLA_BRPORT_MODE, <linux/if_link.h>: frames may leave by the port they came from
INSIDE = "eth0"


class LinkError(HostctlError):
    """The kernel refused a change of a link."""

    id = "network-link-failed"


def hardware_address(prefix: str, address: IPv4Address) -> str:
    """Return a locally administered unicast hardware address (IEEE 802: second bit of the first octet)."""
    return ":".join((prefix, "68", *(f"{octet:02x}" for octet in address.packed)))


def _set(path: Path, value: str) -> None:
    """Write a kernel setting; that of a protocol that this kernel does not have is no matter."""
    with suppress(FileNotFoundError):
        path.write_text(value)


class Links:
    """One rtnetlink socket in the host's network namespace. To be closed."""

    def __init__(self) -> None:
        self.route = IPRoute()

    def close(self) -> None:
        """Close the socket."""
        self.route.close()

    def all(self) -> tuple[Link, ...]:
        """Return all links of the host."""
        links = []
        for message in self.route.get_links():
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

    def index(self, name: str) -> int:
        """Return the index of the link ``name``.

        Raises:
            LinkError: there is none.
        """
        found = self.route.link_lookup(ifname=name)
        if not found:
            raise LinkError(f"there is no link {name}")
        return int(found[0])

    def remove(self, link: Link) -> None:
        """Remove a link, and with it its peer; one that is gone already is fine.

        Raises:
            LinkError: the kernel refused.
        """
        try:
            self.route.link("del", index=link.index)
        except NetlinkError as error:
            if error.code != 19:  # ENODEV
                raise LinkError(f"link {link.name} cannot be removed", details=str(error)) from error

    def make_bridge(self, plan: NetworkPlan) -> int:
        """Make and configure the bridge, and return its index.

        Raises:
            LinkError: the kernel refused.
        """
        try:
            mac = hardware_address("02", plan.gateway)
            self.route.link("add", ifname=plan.bridge, kind="bridge", address=mac)
            index = self.index(plan.bridge)
            # Answers to the host's own 127.0.0.1 come back over the bridge; strangers are dropped by the packet filter.
            _set(Path(f"/proc/sys/net/ipv4/conf/{plan.bridge}/route_localnet"), "1")
            _set(Path(f"/proc/sys/net/ipv6/conf/{plan.bridge}/disable_ipv6"), "1")
            self.route.addr("add", index=index, address=str(plan.gateway), prefixlen=plan.subnet.prefixlen)
            self.route.link("set", index=index, state="up")
            self.route.link("set", index=index, ifalias=BRIDGE_ALIAS)
        except (NetlinkError, OSError, ValueError) as error:
            raise LinkError(f"bridge {plan.bridge} cannot be made", details=str(error)) from error
        return index

    def attach(self, link: Link, bridge: int) -> None:
        """Make a link a port of the bridge.

        Raises:
            LinkError: the kernel refused.
        """
        try:
            self._join(link.index, bridge)
        except NetlinkError as error:
            raise LinkError(f"link {link.name} cannot join the bridge", details=str(error)) from error

    def _join(self, index: int, bridge: int) -> None:
        self.route.link("set", index=index, master=bridge)
        # With br_netfilter a published port that a workload asks itself for is redirected within the bridge.
        self.route.brport("set", index=index, mode=HAIRPIN)

    def connect(self, plan: NetworkPlan, workload: WorkloadNetwork, bridge: int, place: Path) -> None:
        """Connect the network namespace pinned at ``place`` to the bridge, and configure it.

        Raises:
            LinkError: the kernel refused; the link does not count as finished.
        """
        name = host_side(workload.name)
        try:
            with place.open("rb") as namespace:
                peer = {
                    "ifname": INSIDE,
                    "net_ns_fd": namespace.fileno(),
                    "address": hardware_address("02", workload.address),
                }
                mac = hardware_address("fe", workload.address)
                self.route.link("add", ifname=name, kind="veth", address=mac, peer=peer)
            _set(Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1")
            with namespaces.inside(place):
                _configure(plan, workload)
            index = self.index(name)
            self._join(index, bridge)
            self.route.link("set", index=index, ifalias=alias(workload))
            self.route.link("set", index=index, state="up")
        except (NetlinkError, OSError, ValueError) as error:
            raise LinkError(f"workload {workload.name} cannot be connected", details=str(error)) from error


def _configure(plan: NetworkPlan, workload: WorkloadNetwork) -> None:
    """Bring up loopback and the workload's side, from inside its namespace."""
    # The workload's own users may listen on any port there: nobody else's ports are in reach.
    _set(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0")
    _set(Path(f"/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6"), "1")
    with IPRoute() as route:
        [loopback] = route.link_lookup(ifname="lo")
        [index] = route.link_lookup(ifname=INSIDE)
        route.link("set", index=loopback, state="up")
        route.addr("replace", index=index, address=str(workload.address), prefixlen=plan.subnet.prefixlen)
        route.link("set", index=index, state="up")
        route.route("replace", dst="default", gateway=str(plan.gateway))
