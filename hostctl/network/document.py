"""The file ``network.json``: a generation's plan of the networks, read strictly.

Format 2 holds any plan. Format 1 is what releases read that know one network only; what it can hold is written in it,
so that a release that is gone back to understands the generation. Both are read. Instances of a workload stand under
its name with their letter, replicas but the first with their number.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NoReturn, TypeVar, cast

from hostctl.config.addresses import IpAddress
from hostctl.config.names import Name
from hostctl.config.networks import DEFAULT, LARGEST_MTU, SMALLEST_MTU, LinkName
from hostctl.config.references import PortMapping
from hostctl.network.model import (
    BRIDGE,
    RANGE_SIZE,
    Attachment,
    Driver,
    Network,
    NetworkPlan,
    NetworkPlanError,
    WorkloadNetwork,
    check_published,
)
from hostctl.workload import instance

OLD_FORMAT, FORMAT = 1, 2
MAX_BYTES = 4 << 20
MAX_INTERFACE = 9999  # eth9999 is a name that fits anywhere
_UID_LIMIT = 0xFFFFFFFF  # (uid_t) -1 means nobody, user_namespaces(7)
Parsed = TypeVar("Parsed")
Object = dict[str, object]


def encode(plan: NetworkPlan) -> bytes:
    """Return the bytes of ``network.json``; equal plans give equal bytes."""
    document = _old(plan) if _fits_old(plan) else _new(plan)
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _new(plan: NetworkPlan) -> Mapping[str, object]:
    return {
        "format": FORMAT,
        "networks": {
            each.name: {
                "subnet": str(each.subnet),
                "gateway": _text_or_none(each.gateway),
                "last": str(each.last),
                "subnet6": _text_or_none(each.subnet6),
                "driver": each.driver,
                "parent": each.parent,
                "internal": each.internal,
                "mtu": each.mtu,
            }
            for each in plan.networks
        },
        "workloads": {
            each.key: {
                "userns_start": each.userns_start,
                "ports": [str(port) for port in each.ports],
                "dns": list(each.dns),
                **({"standby": True} if each.standby else {}),
                "attachments": [
                    {
                        "network": place.network,
                        "address": str(place.address),
                        "address6": _text_or_none(place.address6),
                        "aliases": list(place.aliases),
                    }
                    for place in each.attachments
                ],
                **({"interfaces": list(each.interfaces)} if each.interfaces else {}),
            }
            for each in plan.workloads
        },
    }


def _text_or_none(value: object) -> str | None:
    return str(value) if value is not None else None


def _fits_old(plan: NetworkPlan) -> bool:
    """Tell whether format 1 can hold a plan: one IPv4 network like any other, and plain ports."""
    if len(plan.networks) != 1:
        return not plan.networks
    [network] = plan.networks
    plain = Network(name=DEFAULT, subnet=network.subnet, gateway=network.subnet[1], last=network.last)
    return network == plain and all(
        not each.dns
        and not each.instance
        and not each.interfaces
        and not each.attachments[0].aliases
        and not any(port.count > 1 or ":" in (port.address or "") for port in each.ports)
        for each in plan.workloads
    )


def _old(plan: NetworkPlan) -> Mapping[str, object]:
    if not plan.networks:
        return {}
    [network] = plan.networks
    return {
        "format": OLD_FORMAT,
        "bridge": network.bridge,
        "subnet": str(network.subnet),
        "gateway": str(network.gateway),
        "last": str(network.last),
        "workloads": {
            each.name: {
                "address": str(each.attachments[0].address),
                "userns_start": each.userns_start,
                "ports": [str(port) for port in each.ports],
            }
            for each in plan.workloads
        },
    }


def check(plan: NetworkPlan) -> None:
    """Check, before a plan is stored, that it can be read again: else no later change of the host could begin.

    Raises:
        NetworkPlanError: it breaks an invariant of :mod:`hostctl.network.model`.
    """
    try:
        _check(plan)
    except ValueError as error:
        raise NetworkPlanError("the declared networks do not fit together", details=str(error)) from error


def decode(data: bytes) -> NetworkPlan:
    """Return the plan that ``network.json`` holds; ``{}`` is a generation without private networks.

    Raises:
        NetworkPlanError: it holds anything else than a whole, consistent plan of format 1 or 2.
        PublishedAddressError: a port is published where none can be.
    """
    if len(data) > MAX_BYTES:
        _refuse(f"it has more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once)
        plan = _plan(document) if document != {} else NetworkPlan()
        _check(plan)
    except (ValueError, RecursionError) as error:
        raise NetworkPlanError("the network plan cannot be read", details=str(error)) from error
    check_published(plan)
    return plan


def _refuse(why: str) -> NoReturn:
    raise NetworkPlanError("the network plan cannot be read", details=why)


def _once(pairs: list[tuple[str, object]]) -> Object:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a key stands twice in {{{', '.join(sorted(names))}}}")
    return dict(pairs)


def _object(value: object, what: str, *keys: str) -> Object:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{what} must have exactly {', '.join(sorted(keys))}")
    return value


def _mapping(value: object, what: str) -> Object:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a mapping by name")  # noqa: TRY004 - decode() turns every ValueError into ours
    for key in value:
        name, letter = instance.split(key)
        Name.parse(name)
        if letter and what != "workloads":
            raise ValueError(f"{key!r}: only workloads have instances")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list")  # noqa: TRY004 - see _mapping()
    return value


def _text(value: object, what: str, parse: Callable[[str], Parsed]) -> Parsed:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text")  # noqa: TRY004 - see _mapping()
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _maybe(value: object, what: str, parse: Callable[[str], Parsed]) -> Parsed | None:
    return _text(value, what, parse) if value is not None else None


def _number(value: object, what: str, first: int, last: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
        raise ValueError(f"{what} {value!r} is no number from {first} to {last}")
    return value


def _subnet(text: str) -> IPv4Network:
    subnet = IPv4Network(text)
    if not 8 <= subnet.prefixlen <= 30:
        raise ValueError(f"{text!r} must have a prefix length from 8 to 30")
    return subnet


def _subnet6(text: str) -> IPv6Network:
    subnet = IPv6Network(text)
    if not 8 <= subnet.prefixlen <= 64:
        raise ValueError(f"{text!r} must have a prefix length from 8 to 64")
    return subnet


def _plan(value: object) -> NetworkPlan:
    if not isinstance(value, dict) or isinstance(value.get("format"), bool):
        raise ValueError("it is no network plan")  # noqa: TRY004 - see _mapping()
    if value.get("format") == OLD_FORMAT:
        return _old_plan(value)
    if value.get("format") != FORMAT:
        raise ValueError(f"format {value.get('format')!r} is neither {OLD_FORMAT} nor {FORMAT}")
    document = _object(value, "the document", "format", "networks", "workloads")
    networks, workloads = _mapping(document["networks"], "networks"), _mapping(document["workloads"], "workloads")
    return NetworkPlan(
        networks=tuple(_network(name, networks[name]) for name in sorted(networks)),
        workloads=tuple(_workload(key, workloads[key]) for key in sorted(workloads)),
    )


def _old_plan(value: object) -> NetworkPlan:
    document = _object(value, "the document", "format", "bridge", "subnet", "gateway", "last", "workloads")
    if document["bridge"] != BRIDGE:
        raise ValueError(f"bridge {document['bridge']!r} is not {BRIDGE}")
    network = Network(
        name=DEFAULT,
        subnet=_text(document["subnet"], "subnet", _subnet),
        gateway=_text(document["gateway"], "gateway", IPv4Address),
        last=_text(document["last"], "last", IPv4Address),
    )
    workloads = []
    for name, raw in sorted(_mapping(document["workloads"], "workloads").items()):
        where = f"workloads.{Name.parse(name)}"
        entry = _object(raw, where, "address", "userns_start", "ports")
        address = _text(entry["address"], f"{where}: address", IPv4Address)
        workloads.append(
            WorkloadNetwork(
                name=name,
                userns_start=_range(entry["userns_start"], where),
                attachments=(Attachment(network=DEFAULT, address=address),),
                ports=_ports(entry["ports"], where),
            )
        )
    return NetworkPlan(networks=(network,), workloads=tuple(workloads))


def _range(value: object, where: str) -> int:
    return _number(value, f"{where}: userns_start", RANGE_SIZE, _UID_LIMIT - RANGE_SIZE)


def _ports(value: object, where: str) -> tuple[PortMapping, ...]:
    return tuple(_text(port, f"{where}: port", PortMapping.parse) for port in _list(value, f"{where}: ports"))


def _network(name: str, value: object) -> Network:
    where = f"networks.{name}"
    entry = _object(value, where, "subnet", "gateway", "last", "subnet6", "driver", "parent", "internal", "mtu")
    driver, parent, mtu = entry["driver"], entry["parent"], entry["mtu"]
    if driver not in ("bridge", "macvlan") or not isinstance(entry["internal"], bool):
        raise ValueError(f"{where}: driver or internal cannot be that")
    if (driver == "bridge") != (parent == ""):
        raise ValueError(f"{where}: a macvlan network, and only that, has a parent")
    return Network(
        name=name,
        subnet=_text(entry["subnet"], f"{where}: subnet", _subnet),
        gateway=_maybe(entry["gateway"], f"{where}: gateway", IPv4Address),
        last=_text(entry["last"], f"{where}: last", IPv4Address),
        subnet6=_maybe(entry["subnet6"], f"{where}: subnet6", _subnet6),
        driver=cast(Driver, driver),
        parent=str(_text(parent, f"{where}: parent", LinkName.parse)) if parent else "",
        internal=entry["internal"],
        mtu=_number(mtu, f"{where}: mtu", SMALLEST_MTU, LARGEST_MTU) if mtu is not None else None,
    )


def _workload(key: str, value: object) -> WorkloadNetwork:
    where = f"workloads.{key}"
    name, letter = instance.split(key)
    standby = isinstance(value, dict) and value.get("standby") is True
    changed = isinstance(value, dict) and "interfaces" in value
    more = [*(["standby"] if standby else []), *(["interfaces"] if changed else [])]
    entry = _object(value, where, "userns_start", "ports", "dns", "attachments", *more)
    attachments = tuple(_attachment(where, raw) for raw in _list(entry["attachments"], f"{where}: attachments"))
    return WorkloadNetwork(
        name=name,
        userns_start=_range(entry["userns_start"], where),
        attachments=attachments,
        interfaces=_interfaces(entry["interfaces"], where, len(attachments)) if changed else (),
        ports=_ports(entry["ports"], where),
        dns=tuple(str(_text(each, f"{where}: dns", IpAddress.parse)) for each in _list(entry["dns"], f"{where}: dns")),
        instance=letter,
        standby=standby,
    )


def _interfaces(value: object, where: str, count: int) -> tuple[int, ...]:
    listed = _list(value, f"{where}: interfaces")
    numbers = tuple(_number(each, f"{where}: interface", 0, MAX_INTERFACE) for each in listed)
    if len(numbers) != count or len(set(numbers)) != count:
        raise ValueError(f"{where}: it must have as many interfaces as networks, each once")
    return numbers


def _attachment(where: str, value: object) -> Attachment:
    entry = _object(value, f"{where}: attachment", "network", "address", "address6", "aliases")
    return Attachment(
        network=str(_text(entry["network"], f"{where}: network", Name.parse)),
        address=_text(entry["address"], f"{where}: address", IPv4Address),
        address6=_maybe(entry["address6"], f"{where}: address6", IPv6Address),
        aliases=tuple(
            str(_text(alias, f"{where}: alias", Name.parse)) for alias in _list(entry["aliases"], f"{where}: aliases")
        ),
    )


def _check(plan: NetworkPlan) -> None:
    """Check the invariants of :mod:`hostctl.network.model`."""
    names = {network.name for network in plan.networks}
    serving = [each.name for each in plan.workloads if not each.standby and not instance.is_replica(each.instance)]
    if len(set(serving)) < len(serving):
        raise ValueError("two instances of a workload cannot both have its name and ports")
    _check_replicas(plan)
    for workload in plan.workloads:
        on = [place.network for place in workload.attachments]
        if not on or len(set(on)) != len(on) or not set(on) <= names:
            raise ValueError(f"{workload.key}: it must be on networks of this plan, on each once")
    for one, other in itertools.combinations([each for each in plan.networks if each.driver == "bridge"], 2):
        six = one.subnet6 is not None and other.subnet6 is not None and one.subnet6.overlaps(other.subnet6)
        if one.subnet.overlaps(other.subnet) or six:
            raise ValueError(f"networks {one.name} and {other.name} overlap")
    for network in plan.networks:
        _check_addresses(network, plan)
    # Instances of one workload share its range, replicas do not.
    ranges = sorted(
        {(each.userns_start, each.key if instance.is_replica(each.instance) else each.name) for each in plan.workloads}
    )
    for (start, name), (following, after) in itertools.pairwise(ranges):
        if following < start + RANGE_SIZE:
            raise ValueError(f"the user ids of {name} and {after} overlap")


def _check_replicas(plan: NetworkPlan) -> None:
    by_key = {each.key: each for each in plan.workloads}
    for each in plan.workloads:
        if not instance.is_replica(each.instance):
            continue
        first = by_key.get(each.name)
        if first is None or each.standby or first.ports != each.ports:
            raise ValueError(f"{each.key}: it is no replica of {each.name}")
        if [place.network for place in first.attachments] != [place.network for place in each.attachments]:
            raise ValueError(f"{each.key}: it is not on the networks of {each.name}")


def _check_addresses(network: Network, plan: NetworkPlan) -> None:
    if network.gateway is None and network.driver == "bridge":
        raise ValueError(f"network {network.name}: the bridge has no address")
    places = [(each.key, place) for each in plan.workloads for place in each.attachments]
    on = [(name, place) for name, place in places if place.network == network.name]
    holders: dict[IPv4Address | IPv6Address, str] = {}
    named: list[tuple[str, IPv4Address | IPv6Address | None]] = [("gateway", network.gateway)]
    named += [("gateway", network.gateway6), *((name, place.address) for name, place in on)]
    named += [(name, place.address6) for name, place in on]
    edges = (network.subnet.network_address, network.subnet.broadcast_address)
    for name, address in [*named, ("last", network.last)]:
        if address is None:
            continue
        within = address in network.subnet if address.version == 4 else address in (network.subnet6 or ())
        if not within or address in edges:
            raise ValueError(f"{name}: {address} is no address of a host in network {network.name}")
        if holders.get(address, name) != name and name != "last":
            raise ValueError(f"{name}: {address} is already the address of {holders[address]}")
        if name != "last":
            holders[address] = name
    for name, place in on:
        if (place.address6 is None) != (network.subnet6 is None):
            raise ValueError(f"{name}: it must have an IPv6 address where its network has them, and only there")
