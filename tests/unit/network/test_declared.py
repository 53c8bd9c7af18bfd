"""From a declaration to a plan, and what of it a workload's bundle says; what the host is in."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from hostctl.config.load import parse_host
from hostctl.network import declared, surroundings
from hostctl.network.allocate import Pools
from hostctl.network.model import NetworkPlan, NetworkPlanError
from hostctl.network.names import tables

TEXT = """
version: 1
hostname: a
networks:
  front: {subnet: 10.90.1.0/24, ipv6: pool, range: 10.90.1.128/25}
  back: {internal: true}
  lan: {driver: macvlan, parent: eth0, subnet: 192.168.1.0/24, gateway: 192.168.1.1}
workloads:
  web: {image: 'registry.example/web:1', networks: [back, front]}
  db: {image: 'registry.example/web:1', networks: {back: {aliases: [sql]}}, dns: {servers: [9.9.9.9]}}
  cam: {image: 'registry.example/web:1', networks: {lan: {ipv4: 192.168.1.9}}}
  plain: {image: 'registry.example/web:1', network: host}
"""
MACHINE = "0123456789abcdef0123456789abcdef"


def plan() -> NetworkPlan:
    host = parse_host(TEXT, "host.yaml")
    ranges = {str(name): number for number, name in enumerate(host.workloads)}
    return declared.plan(host, ranges, None, declared.pools(host, MACHINE, {}))


def test_a_declaration_becomes_a_plan() -> None:
    made = plan()
    places = {each.name: [(p.network, str(p.address)) for p in each.attachments] for each in made.workloads}
    assert places == {
        "cam": [("lan", "192.168.1.9")],
        "db": [("back", "10.89.0.2")],
        "web": [("back", "10.89.0.3"), ("front", "10.90.1.128")],
    }
    assert made.network("front").subnet6 == IPv6Network((declared.unique_local(MACHINE).network_address, 64))
    assert [network.bridge for network in made.bridges] == ["hcb-back", "hcb-front"]


def test_a_plan_that_nobody_could_read_again_is_not_made() -> None:
    host = parse_host(TEXT.replace("[back, front]", "[back, front, default]"), "host.yaml")
    ranges = {str(name): number for number, name in enumerate(host.workloads)}
    with pytest.raises(NetworkPlanError, match="do not fit together") as caught:
        declared.plan(host, ranges, None, Pools(ipv4=IPv4Network("10.90.0.0/15")))
    assert caught.value.details == "networks default and front overlap"


def test_a_pool_network_is_not_where_a_link_of_the_same_declaration_is() -> None:
    links = "network: {far: {match: eth1, addresses: [10.89.0.9/23, 'fd00:9::1/64']}}\n"
    pool = "network_pool: {ipv6: 'fd00:9::/48'}\n"
    host = parse_host(f"{TEXT}{links}{pool}".replace("back: {internal: true}", "back: {ipv6: pool}"), "host.yaml")
    ranges = {str(name): number for number, name in enumerate(host.workloads)}
    made = declared.plan(host, ranges, None, declared.pools(host, MACHINE, {}))
    assert (str(made.network("back").subnet), str(made.network("back").subnet6)) == ("10.89.2.0/24", "fd00:9:0:2::/64")


def test_the_ipv6_pool_is_the_machines_own_and_stays() -> None:
    own = declared.unique_local(MACHINE)
    assert own == declared.unique_local(MACHINE) != declared.unique_local(MACHINE[::-1])
    assert own.prefixlen == 48
    assert own.subnet_of(IPv6Network("fd00::/8"))


def test_a_workload_asks_at_a_network_that_leads_outside() -> None:
    made = plan()
    told = {each.name: declared.connection(made, each) for each in made.workloads}
    assert told["web"].name_servers == ("10.90.1.1",)
    assert told["db"].name_servers == ("10.89.0.1",)
    assert told["cam"].name_servers == ()
    assert {name for name, each in told.items() if each.may_be_late} == {"cam"}
    assert told["web"].addresses[:2] == ("10.89.0.3", "10.90.1.128")
    assert told["web"].addresses[2].startswith("fd")


def test_the_name_server_gets_a_file_for_each_bridge() -> None:
    made = tables(plan())
    assert made["back%int"] == "10.89.0.1\ndb 10.89.0.2  db,sql 9.9.9.9\nweb 10.89.0.3  web\n"
    prefix = str(declared.unique_local(MACHINE).network_address)
    assert made["front"] == f"10.90.1.1,{prefix}1\nweb 10.90.1.128 {prefix}80 web\n"
    assert sorted(made) == ["back%int", "front"]


def test_names_of_bridges_fit_and_are_told_apart() -> None:
    names = ["a", "front", "a-name-of-11", "a-name-of-12", "a" * 31, "a" * 30]
    more = "".join(f"  {name}: {{}}\n" for name in names if name != "front")
    text = TEXT.replace("networks:\n", f"networks:\n{more}", 1)
    host = parse_host(text.replace("networks: [back, front]", f"networks: [{', '.join(names)}]"), "host.yaml")
    ranges = {str(name): number for number, name in enumerate(host.workloads)}
    made = declared.plan(host, ranges, None, declared.pools(host, MACHINE, {}))
    bridges = [network.bridge for network in made.networks]
    assert len(set(bridges)) == len(bridges)
    assert all(re.fullmatch(r"hc(b-.{1,11}|x[0-9a-f]{12})", bridge) for bridge in bridges)


ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0\t0\t0
eth0\t0002000A\t00000000\t0001\t0\t0\t1024\t00FFFFFF\t0\t0\t0
hostctl0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
hcb-front\t00015A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
NOBODY = "0" * 32


def route6(destination: str, length: str, link: str) -> str:
    return f"{destination} {length} {NOBODY} 00 {NOBODY} 00000100 00000001 00000000 00000001 {link:>8}\n"


ROUTE6 = (
    route6("fec0" + "0" * 28, "40", "eth0")
    + route6("fe80" + "0" * 28, "40", "eth0")
    + route6("0" * 31 + "1", "80", "lo")
    + route6(NOBODY, "00", "eth0")
)


def test_what_the_host_is_in_is_read_from_its_routes(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTE)
    assert surroundings.routes(tmp_path) == {"eth0 (10.0.2.0/24)": IPv4Network("10.0.2.0/24")}
    (tmp_path / "proc/net/ipv6_route").write_text(ROUTE6)
    assert set(surroundings.routes(tmp_path)) == {"eth0 (10.0.2.0/24)", "eth0 (fec0::/64)"}
