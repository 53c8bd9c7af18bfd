"""Which workload has which address: the plan of the private network, decided purely, and its file ``network.json``.

Invariants of a plan: every address is an IPv4 host address of ``subnet``, nobody has it twice, and the gateway keeps
its own; ranges of user ids do not overlap; a workload keeps its address for as long as it is declared. New addresses
are handed out going round the subnet from the last one, so that an address that came free is the last to be used
again: peers that still remember its former holder reach nobody instead of somebody else.

IPv6 has no place here yet: workloads have IPv4 addresses, and reach the outside by them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import NoReturn

from hostctl.config.names import Name
from hostctl.config.references import PortMapping
from hostctl.errors import HostctlError

BRIDGE = "hostctl0"
SUBNET = IPv4Network("10.88.0.0/16")
GATEWAY = IPv4Address("10.88.0.1")
FORMAT = 1
RANGE_SIZE = 65536
"""User ids of one workload: all that 16 bits can name, user_namespaces(7)."""
MAX_BYTES = 4 << 20
_UID_LIMIT = 0xFFFFFFFF  # (uid_t) -1 means nobody, user_namespaces(7)
_INTERFACE = r"[a-z][a-z0-9-]{0,14}"  # IFNAMSIZ is 16 with the final NUL, linux/if.h


class NetworkPlanError(HostctlError):
    """A stored network plan does not mean what it must."""

    id = "network-plan-invalid"


class NetworkFullError(HostctlError):
    """Every address of the private network is taken."""

    id = "network-full"


class PublishedAddressError(HostctlError):
    """A port is to be published at an address that ports cannot be published at."""

    id = "published-address-unsupported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A declared workload with a private network. ``userns_start`` is the first user id of its range on the host."""

    name: str
    userns_start: int
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadNetwork:
    """A workload on the private network. ``userns_start`` is the first of :data:`RANGE_SIZE` user ids on the host."""

    name: str
    address: IPv4Address
    userns_start: int
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """The whole private network. ``last`` is the address handed out last; workloads are sorted by name."""

    bridge: str = BRIDGE
    subnet: IPv4Network = SUBNET
    gateway: IPv4Address = GATEWAY
    last: IPv4Address = GATEWAY
    workloads: tuple[WorkloadNetwork, ...] = ()


def allocate(wanted: Iterable[Wanted], former: NetworkPlan | None = None) -> NetworkPlan:
    """Give every workload its address.

    Args:
        wanted: the workloads with a private network, each name once.
        former: the plan of the generation in force; what is in it keeps its address.

    Raises:
        NetworkFullError: there are more workloads than addresses.
        PublishedAddressError: a port is to be published at an IPv6 address.
    """
    base = former or NetworkPlan()
    kept = {workload.name: workload.address for workload in base.workloads}
    declared = sorted(wanted, key=lambda each: each.name)
    for each in declared:
        for port in each.ports:
            _check_published(each.name, port)
    # What is freed by this very change is left alone too, as long as there is anything else.
    taken = {base.gateway, *kept.values()}
    freed = {address for name, address in kept.items() if name not in {each.name for each in declared}}
    last, workloads = base.last, []
    for each in declared:
        address = kept.get(each.name)
        if address is None:
            address = last = _next(base.subnet, last, taken, freed)
            taken.add(address)
            freed.discard(address)
        workloads.append(
            WorkloadNetwork(name=each.name, address=address, userns_start=each.userns_start, ports=each.ports)
        )
    return NetworkPlan(
        bridge=base.bridge, subnet=base.subnet, gateway=base.gateway, last=last, workloads=tuple(workloads)
    )


def _check_published(name: str, port: PortMapping) -> None:
    if port.address is not None and ":" in port.address:
        raise PublishedAddressError(
            f"workload {name}: port {port} cannot be published at an IPv6 address yet",
            hint=f"publish it at an IPv4 address of the host, or at all: {port.host_port}:{port.container_port}",
        )


def _next(subnet: IPv4Network, last: IPv4Address, taken: set[IPv4Address], freed: set[IPv4Address]) -> IPv4Address:
    """Return the first free address after ``last``, going round; one of ``freed`` only if there is no other."""
    first, count = int(subnet.network_address) + 1, subnet.num_addresses - 2
    start = int(last) - first
    for refused in (taken, taken - freed):
        for step in range(1, count + 1):
            address = IPv4Address(first + (start + step) % count)
            if address not in refused:
                return address
    raise NetworkFullError(
        f"all {count} addresses of the private network {subnet} are taken",
        hint="give workloads that need no address of their own network: none or network: host",
    )


def encode(plan: NetworkPlan) -> bytes:
    """Return the bytes of ``network.json``; equal plans give equal bytes."""
    document = {
        "format": FORMAT,
        "bridge": plan.bridge,
        "subnet": str(plan.subnet),
        "gateway": str(plan.gateway),
        "last": str(plan.last),
        "workloads": {
            each.name: {
                "address": str(each.address),
                "userns_start": each.userns_start,
                "ports": [str(port) for port in each.ports],
            }
            for each in plan.workloads
        },
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes) -> NetworkPlan:
    """Return the plan that ``network.json`` holds; ``{}`` is a generation without workloads.

    Raises:
        NetworkPlanError: it holds anything else than a whole, consistent plan of this format.
        PublishedAddressError: a port is published at an IPv6 address.
    """
    if len(data) > MAX_BYTES:
        _refuse(f"it has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once)
        return _plan(document) if document != {} else NetworkPlan()
    except (ValueError, RecursionError) as error:
        raise NetworkPlanError("the network plan cannot be read", details=str(error)) from error


def _refuse(why: str) -> NoReturn:
    raise NetworkPlanError("the network plan cannot be read", details=why)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a key stands twice in {{{', '.join(sorted(names))}}}")
    return dict(pairs)


def _object(value: object, what: str, keys: frozenset[str]) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != keys:
        raise ValueError(f"{what} must have exactly {', '.join(sorted(keys))}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text")  # noqa: TRY004 - decode() turns every ValueError into ours
    return value


def _address(value: object, what: str) -> IPv4Address:
    try:
        return IPv4Address(_text(value, what))
    except AddressValueError:
        raise ValueError(f"{what} {value!r} is no IPv4 address") from None


def _subnet(value: object) -> IPv4Network:
    try:
        subnet = IPv4Network(_text(value, "subnet"))
    except (AddressValueError, NetmaskValueError):
        raise ValueError(f"subnet {value!r} is no IPv4 network") from None
    if subnet.prefixlen > 30 or subnet.prefixlen < 8:
        raise ValueError(f"subnet {value!r} must have a prefix length from 8 to 30")
    return subnet


def _plan(value: object) -> NetworkPlan:
    keys = frozenset({"format", "bridge", "subnet", "gateway", "last", "workloads"})
    document = _object(value, "the document", keys)
    if document["format"] != FORMAT or isinstance(document["format"], bool):
        raise ValueError(f"format {document['format']!r} is not {FORMAT}")
    bridge = _text(document["bridge"], "bridge")
    if re.fullmatch(_INTERFACE, bridge) is None:
        raise ValueError(f"bridge {bridge!r} is no interface name")
    raw = document["workloads"]
    if not isinstance(raw, dict):
        raise ValueError("workloads must be a mapping by name")  # noqa: TRY004 - see _text()
    plan = NetworkPlan(
        bridge=bridge,
        subnet=_subnet(document["subnet"]),
        gateway=_address(document["gateway"], "gateway"),
        last=_address(document["last"], "last"),
        workloads=tuple(_workload(name, raw[name]) for name in sorted(raw)),
    )
    _check(plan)
    return plan


def _workload(name: str, value: object) -> WorkloadNetwork:
    where = f"workloads.{Name.parse(name)}"
    document = _object(value, where, frozenset({"address", "userns_start", "ports"}))
    start, ports = document["userns_start"], document["ports"]
    if not isinstance(start, int) or isinstance(start, bool) or not RANGE_SIZE <= start <= _UID_LIMIT - RANGE_SIZE:
        raise ValueError(f"{where}: userns_start {start!r} is no range of user ids for workloads")
    if not isinstance(ports, list):
        raise ValueError(f"{where}: ports must be a list")  # noqa: TRY004 - see _text()
    return WorkloadNetwork(
        name=name,
        address=_address(document["address"], f"{where}: address"),
        userns_start=start,
        ports=tuple(PortMapping.parse(_text(port, f"{where}: port")) for port in ports),
    )


def _check(plan: NetworkPlan) -> None:
    edges = (plan.subnet.network_address, plan.subnet.broadcast_address)
    for each in plan.workloads:
        for port in each.ports:
            _check_published(each.name, port)
    holders: dict[IPv4Address, str] = {}
    named = [("gateway", plan.gateway), *((each.name, each.address) for each in plan.workloads)]
    for name, address in [*named, ("last", plan.last)]:
        if address not in plan.subnet or address in edges:
            raise ValueError(f"{name}: {address} is no host address of {plan.subnet}")
    for name, address in named:
        if address in holders:
            raise ValueError(f"{name}: {address} is already the address of {holders[address]}")
        holders[address] = name
    ranges = sorted((each.userns_start, each.name) for each in plan.workloads)
    for (start, name), (following, other) in itertools.pairwise(ranges):
        if following < start + RANGE_SIZE:
            raise ValueError(f"the user ids of {name} and {other} overlap")
