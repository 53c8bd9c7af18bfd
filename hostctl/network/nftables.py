"""The packet filter of the networks: one table of our own, ``inet hostctl``, as nft's JSON.

The rules say something only of packets that come from or go to our bridges, and of published ports; whatever other
tables say of a packet holds as well. The whole table is replaced in one transaction: there is no moment in which a
published port is missing or a workload is less isolated.

- Published ports are redirected for packets from outside and for the host's own, 127.0.0.1 included. For the latter
  a bridge routes loopback addresses (sysctl ``route_localnet``), so loopback addresses that did not come from the
  loopback interface are dropped before anything else looks at them. There is no such setting for ::1. Who asks from
  outside, or from another network, is seen by their own address: only where the answer would miss the host does the
  host's stand in for it.
- Ports of a workload with replicas lead to a chain that asks one replica's chain after the other: first one by turns,
  then some by chance, then all of them. A chain is empty while its replica gets no connections, and whoever finds it
  so goes on to the next. The kernel remembers for each connection where it leads, so what is there already stays; what
  no replica took it must not remember of UDP, which is dropped.
- Workloads reach the outside behind the host's address, those of their own networks, and published ports; of the host
  itself only answers, ICMP, and the name server at the gateway's address. Nothing else reaches them, neither from
  outside nor from another network. A network that is internal lets nothing in or out but that name server, which
  answers nobody but the workloads and the host.
- A workload can send from an address of the network only, and IPv6 only where the network has it.

See libnftables-json(5) for the format and nft(8) for the meaning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from hostctl.config.references import PortMapping
from hostctl.network.balance import balanced, chain, common_chain
from hostctl.network.model import UNIQUE_LOCAL, Attachment, Network, NetworkPlan, WorkloadNetwork, targets

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | None"

FAMILY, TABLE = "inet", "hostctl"
LOOPBACK: Json = {"prefix": {"addr": "127.0.0.0", "len": 8}}
RESOLVED = ("127.0.0.53", "127.0.0.54")  # where systemd-resolved answers the host, systemd-resolved(8)
LINK_LOCAL: Json = {"prefix": {"addr": "fe80::", "len": 10}}  # RFC 4291; neighbours find each other by it
# Priorities of the hooks by their names in nft(8): raw comes before connection tracking.
RAW, DSTNAT, FILTER, SRCNAT = -300, -100, 0, 100
DNS = 53
GUESSES = (
    3  # replicas that are tried by chance before all are, so that no single one gets the share of one that is down
)

ACCEPT, DROP, MASQUERADE = ({verdict: None} for verdict in ("accept", "drop", "masquerade"))


def ruleset(plan: NetworkPlan, serving: Collection[str] = ()) -> bytes:
    """Return the transaction that makes the table say what ``plan`` means; with no bridges, that removes it.

    Args:
        plan: what is wanted.
        serving: the replicas that get new connections.
    """
    table: Json = {"table": {"family": FAMILY, "name": TABLE}}
    commands: list[Json] = [{"add": table}, {"delete": table}]  # what is not there cannot be deleted, so added first
    if plan.bridges:
        commands.append({"add": table})
        commands += [{"add": {"chain": {"family": FAMILY, "table": TABLE, **each}}} for each in _chains(plan)]
        commands += [_add_rule(where, expressions) for where, expressions in _rules(plan)]
        for replica in balanced(plan):
            commands += _serve(plan, replica) if replica.key in serving else ()
    return _document(commands)


def serve(plan: NetworkPlan, replica: WorkloadNetwork) -> bytes:
    """Return the transaction after which a replica gets new connections, whether it did before or not."""
    return _document([_flush(replica.key), *_serve(plan, replica)])


def adjust(plan: NetworkPlan, add: Collection[str], remove: Collection[str]) -> bytes:
    """Return the transaction after which replicas get new connections, and others none."""
    commands = [_flush(key) for key in (*remove, *add)]
    for replica in balanced(plan):
        commands += _serve(plan, replica) if replica.key in add else ()
    return _document(commands)


def _document(commands: Sequence[Json]) -> bytes:
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]}).encode()


def _add_rule(where: str, expressions: Sequence[Json]) -> Json:
    return {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": where, "expr": expressions}}}


def _flush(key: str) -> Json:
    return {"flush": {"chain": {"family": FAMILY, "table": TABLE, "name": chain(key)}}}


def _serve(plan: NetworkPlan, replica: WorkloadNetwork) -> list[Json]:
    place = plan.way_in(replica)
    if place is None:
        return []
    return [_add_rule(chain(replica.key), rule) for port in replica.ports for rule in _redirections(place, port)]


def _chains(plan: NetworkPlan) -> Iterator[Mapping[str, Json]]:
    yield {"name": "published"}
    for replica in balanced(plan):
        yield {"name": chain(replica.key)}
        if not replica.instance:
            yield {"name": common_chain(replica.name)}
    for name, kind, hook, priority in (
        ("spoofed", "filter", "prerouting", RAW),
        ("arriving", "nat", "prerouting", DSTNAT),
        ("local", "nat", "output", DSTNAT),
        ("leaving", "nat", "postrouting", SRCNAT),
        ("forwarded", "filter", "forward", FILTER),
        ("to-host", "filter", "input", FILTER),
    ):
        yield {"name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept"}


def _match(left: Json, right: Json, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str, value: Json, op: str = "==") -> Json:
    return _match({"meta": {"key": key}}, value, op)


def _ip(field: str, value: Json, op: str = "==", *, protocol: str = "ip") -> Json:
    return _match({"payload": {"protocol": protocol, "field": field}}, value, op)


def _state(*states: str) -> Json:
    return _match({"ct": {"key": "state"}}, list(states), "in")


REDIRECTED = _match({"ct": {"key": "status"}}, "dnat", "in")


def _prefix(subnet: IPv4Network | IPv6Network) -> Json:
    return {"prefix": {"addr": str(subnet.network_address), "len": subnet.prefixlen}}


def _from(network: Network) -> Iterator[Json]:
    """Yield a match for packets from each of a network's subnets."""
    yield _ip("saddr", _prefix(network.subnet))
    if network.subnet6 is not None:
        yield _ip("saddr", _prefix(network.subnet6), protocol="ip6")


def _rules(plan: NetworkPlan) -> Iterator[tuple[str, Sequence[Json]]]:
    names: Json = {"set": [network.bridge for network in plan.bridges]}
    yield "spoofed", (_meta("iifname", "lo", "!="), _ip("daddr", LOOPBACK), DROP)
    for network in plan.bridges:
        yield from _spoofed(network)
    # Whoever publishes port 53 does not become the name server of the host and of all workloads.
    for network in plan.bridges:
        yield from _name_server(network, "arriving", {"return": None})
    yield "local", (_ip("daddr", {"set": RESOLVED}), {"return": None})
    here = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    if any(network.subnet6 for network in plan.bridges):  # the kernel lets no answer to ::1 in again
        yield "local", (_ip("daddr", "::1", protocol="ip6"), {"return": None})
    for hook in ("arriving", "local"):
        yield hook, (here, _jump("published"))
    yield from _published(plan)

    # From loopback, or from a workload by way of the host: the answer has to come back through the host.
    yield "leaving", (_meta("oifname", names), _ip("saddr", LOOPBACK), MASQUERADE)
    for network in plan.bridges:
        yield from _leaving(network, names)
    yield from _sidestepped(plan)

    yield "forwarded", (_meta("iifname", names), _state("invalid"), DROP)
    for network in plan.bridges:
        if network.internal:
            yield "forwarded", (_meta("iifname", network.bridge), _meta("oifname", network.bridge, "!="), DROP)
            yield "forwarded", (_meta("oifname", network.bridge), _meta("iifname", network.bridge, "!="), DROP)
    yield "forwarded", (_meta("oifname", names), _state("established", "related"), ACCEPT)
    yield "forwarded", (_meta("oifname", names), REDIRECTED, ACCEPT)
    for network in plan.bridges:
        yield "forwarded", (_meta("oifname", network.bridge), _meta("iifname", network.bridge, "!="), DROP)

    yield "to-host", (_meta("iifname", names), _state("established", "related"), ACCEPT)
    yield "to-host", (_meta("iifname", names), _meta("l4proto", {"set": ["icmp", "icmpv6"]}), ACCEPT)
    for network in plan.bridges:
        yield from _name_server(network, "to-host", ACCEPT)
    yield "to-host", (_meta("iifname", names), DROP)
    yield from _strangers(plan)


def _spoofed(network: Network) -> Iterator[tuple[str, Sequence[Json]]]:
    inside = _meta("iifname", network.bridge)
    yield "spoofed", (inside, _ip("saddr", _prefix(network.subnet), "!="), DROP)
    if network.subnet6 is None:
        yield "spoofed", (inside, _meta("nfproto", "ipv6"), DROP)
        return
    own: Json = {"set": [_prefix(network.subnet6), LINK_LOCAL, "::"]}
    yield "spoofed", (inside, _ip("saddr", own, "!=", protocol="ip6"), DROP)


def _leaving(network: Network, names: Json) -> Iterator[tuple[str, Sequence[Json]]]:
    for source in _from(network):
        yield "leaving", (_meta("oifname", network.bridge), source, REDIRECTED, MASQUERADE)
    if network.internal:
        return
    yield "leaving", (_meta("oifname", names, "!="), _ip("saddr", _prefix(network.subnet)), MASQUERADE)
    if network.subnet6 is not None and network.subnet6.subnet_of(UNIQUE_LOCAL):
        source = _ip("saddr", _prefix(network.subnet6), protocol="ip6")
        yield "leaving", (_meta("oifname", names, "!="), source, MASQUERADE)


def _sidestepped(plan: NetworkPlan) -> Iterator[tuple[str, Sequence[Json]]]:
    """Yield what keeps answers on the way of the question, where a workload has one of its own to who asks.

    Its published ports are at one of its networks. To all that is in another it answers over that, past the host and
    from an address that nobody asked; the host itself and neighbours of a macvlan link are in one as well.
    """
    ways = [(way, each.attachments) for each in plan.workloads if each.ports and (way := plan.way_in(each)) is not None]
    for network in plan.networks:
        places = [way for way, on in ways if any(way is not each and each.network == network.name for each in on)]
        for protocol, subnet, addresses in (
            ("ip", network.subnet, [place.address for place in places]),
            ("ip6", network.subnet6, [place.address6 for place in places if place.address6 is not None]),
        ):
            if subnet is not None and addresses:
                at = _ip("daddr", {"set": [str(address) for address in addresses]}, protocol=protocol)
                source = _ip("saddr", _prefix(subnet), protocol=protocol)
                yield "leaving", (at, source, REDIRECTED, MASQUERADE)


def _name_server(network: Network, chain: str, verdict: Json) -> Iterator[tuple[str, Sequence[Json]]]:
    """Yield what becomes of questions to the name server, which listens at the gateway's addresses of a network."""
    for protocol in ("udp", "tcp"):
        asked = _match({"payload": {"protocol": protocol, "field": "dport"}}, DNS)
        yield chain, (_meta("iifname", network.bridge), _ip("daddr", str(network.gateway)), asked, verdict)
        if network.gateway6 is not None:
            six = _ip("daddr", str(network.gateway6), protocol="ip6")
            yield chain, (_meta("iifname", network.bridge), six, asked, verdict)


def _strangers(plan: NetworkPlan) -> Iterator[tuple[str, Sequence[Json]]]:
    """Yield what keeps from the name server who came to a gateway's address by way of the host, from beside it.

    What comes from a bridge was judged before; the host itself asks by its loopback link.
    """
    elsewhere = _meta("iifname", {"set": [*(network.bridge for network in plan.bridges), "lo"]}, "!=")
    gateways = [str(network.gateway) for network in plan.bridges]
    gateways6 = [str(network.gateway6) for network in plan.bridges if network.gateway6 is not None]
    for family, addresses in (("ip", gateways), ("ip6", gateways6)):
        for protocol in ("udp", "tcp"):
            asked = _match({"payload": {"protocol": protocol, "field": "dport"}}, DNS)
            if addresses:
                yield "to-host", (elsewhere, _ip("daddr", {"set": addresses}, protocol=family), asked, DROP)


def _published(plan: NetworkPlan) -> Iterator[tuple[str, Sequence[Json]]]:
    replicas = balanced(plan)
    several = {each.name for each in replicas}
    for workload in plan.workloads:
        place = plan.way_in(workload) if not workload.standby else None
        if place is None or (workload.name in several and workload.instance):
            continue
        for port in workload.ports:
            for *asked, redirection in _redirections(place, port):
                elsewhere = _jump(common_chain(workload.name)) if workload.name in several else redirection
                yield "published", (*asked, elsewhere)
    for name in sorted(several):
        chains = [chain(each.key) for each in replicas if each.name == name]
        chosen: Json = {"set": [[index, _jump(each)] for index, each in enumerate(chains)]}
        for mode in ("inc", *["random"] * GUESSES):
            turn: Json = {"numgen": {"mode": mode, "mod": len(chains), "offset": 0}}
            yield common_chain(name), ({"vmap": {"key": turn, "data": chosen}},)
        for each in chains:
            yield common_chain(name), (_jump(each),)
        if any(port.protocol == "udp" for each in replicas if each.name == name for port in each.ports):
            # Else the kernel would remember, for as long as somebody goes on sending, that this led to nobody.
            yield common_chain(name), (_meta("l4proto", "udp"), DROP)


def _jump(target: str) -> Json:
    return {"jump": {"target": target}}


def _redirections(place: Attachment, port: PortMapping) -> Iterator[Sequence[Json]]:
    """Yield the rule for each family at which a port is published; what it does then is its last word."""
    for address, target in targets(place, port):
        protocol = "ip" if target.version == 4 else "ip6"
        everywhere = _meta("nfproto", f"ipv{target.version}")
        at = everywhere if address is None else _ip("daddr", str(address), protocol=protocol)
        last = port.host_port + port.count - 1
        ports: Json = port.host_port if port.count == 1 else {"range": [port.host_port, last]}
        destination: Json = {"payload": {"protocol": port.protocol, "field": "dport"}}
        to: dict[str, Json] = {"family": protocol, "addr": str(target)}
        if port.count == 1:
            to["port"] = port.container_port
        elif port.host_port != port.container_port:
            pairs = [[port.host_port + step, port.container_port + step] for step in range(port.count)]
            to["port"] = {"map": {"key": destination, "data": {"set": pairs}}}
        yield at, _match(destination, ports), {"dnat": to}
