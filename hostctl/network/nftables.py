"""The packet filter of the private network: one table of our own, ``inet hostctl``, as nft's JSON.

The rules say something only of packets that come from or go to the bridge, and of published ports; whatever other
tables say of a packet holds as well. The whole table is replaced in one transaction: there is no moment in which a
published port is missing or a workload is less isolated.

- Published ports are redirected for packets from outside and for the host's own, 127.0.0.1 included. For the latter
  the bridge routes loopback addresses (sysctl ``route_localnet``), so loopback addresses that did not come from the
  loopback interface are dropped before anything else looks at them.
- Workloads reach the outside behind the host's address, each other, and published ports; of the host itself only
  answers, ICMP, and the name server at the gateway's address. From outside nothing reaches them but published ports.
- A workload can send from an address of the subnet only, and IPv4 only.

See libnftables-json(5) for the format and nft(8) for the meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from hostctl.config.references import PortMapping
from hostctl.network.model import NetworkPlan, WorkloadNetwork

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | None"

FAMILY, TABLE = "inet", "hostctl"
LOOPBACK: Json = {"prefix": {"addr": "127.0.0.0", "len": 8}}
# Priorities of the hooks by their names in nft(8): raw comes before connection tracking.
RAW, DSTNAT, FILTER, SRCNAT = -300, -100, 0, 100
DNS = 53


def ruleset(plan: NetworkPlan) -> bytes:
    """Return the transaction that makes the table say what ``plan`` means; with no workloads, that removes it."""
    table: Json = {"table": {"family": FAMILY, "name": TABLE}}
    commands: list[Json] = [{"add": table}, {"delete": table}]  # what is not there cannot be deleted, so added first
    if plan.workloads:
        commands.append({"add": table})
        commands += [{"add": {"chain": {"family": FAMILY, "table": TABLE, **chain}}} for chain in _chains()]
        commands += [
            {"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "expr": expressions}}}
            for chain, expressions in _rules(plan)
        ]
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]}).encode()


def _chains() -> Iterator[Mapping[str, Json]]:
    yield {"name": "published"}
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


def _ip(field: str, value: Json, op: str = "==") -> Json:
    return _match({"payload": {"protocol": "ip", "field": field}}, value, op)


def _state(*states: str) -> Json:
    return _match({"ct": {"key": "state"}}, list(states), "in")


def _rules(plan: NetworkPlan) -> Iterator[tuple[str, Sequence[Json]]]:
    inside, outside = _meta("iifname", plan.bridge), _meta("iifname", plan.bridge, "!=")
    to_bridge, from_bridge_out = _meta("oifname", plan.bridge), _meta("oifname", plan.bridge, "!=")
    subnet: Json = {"prefix": {"addr": str(plan.subnet.network_address), "len": plan.subnet.prefixlen}}
    accept, drop, masquerade = ({verdict: None} for verdict in ("accept", "drop", "masquerade"))
    redirected = _match({"ct": {"key": "status"}}, "dnat", "in")

    yield "spoofed", (_meta("iifname", "lo", "!="), _ip("daddr", LOOPBACK), drop)
    yield "spoofed", (inside, _ip("saddr", subnet, "!="), drop)
    yield "spoofed", (inside, _meta("nfproto", "ipv6"), drop)

    here = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    for chain in ("arriving", "local"):
        yield chain, (_meta("nfproto", "ipv4"), here, {"jump": {"target": "published"}})
    for workload in plan.workloads:
        for port in workload.ports:
            yield "published", _published(workload, port)

    # From loopback, or from a workload by way of the host: the answer has to come back through the host.
    yield "leaving", (to_bridge, _ip("saddr", LOOPBACK), masquerade)
    yield "leaving", (to_bridge, _ip("saddr", subnet), redirected, masquerade)
    yield "leaving", (from_bridge_out, _ip("saddr", subnet), masquerade)

    yield "forwarded", (inside, _state("invalid"), drop)
    yield "forwarded", (to_bridge, _state("established", "related"), accept)
    yield "forwarded", (to_bridge, redirected, accept)
    yield "forwarded", (to_bridge, outside, drop)

    yield "to-host", (inside, _state("established", "related"), accept)
    yield "to-host", (inside, _ip("protocol", "icmp"), accept)
    for protocol in ("udp", "tcp"):
        dns = _match({"payload": {"protocol": protocol, "field": "dport"}}, DNS)
        yield "to-host", (inside, _ip("daddr", str(plan.gateway)), dns, accept)
    yield "to-host", (inside, drop)


def _published(workload: WorkloadNetwork, port: PortMapping) -> Sequence[Json]:
    at = () if port.address in (None, "0.0.0.0") else (_ip("daddr", port.address),)  # noqa: S104 - means all
    to: Json = {"dnat": {"family": "ip", "addr": str(workload.address), "port": port.container_port}}
    return (*at, _match({"payload": {"protocol": port.protocol, "field": "dport"}}, port.host_port), to)
