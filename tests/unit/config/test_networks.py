"""Declared networks: what is refused, with its place, and that ports and addresses do not collide."""

from __future__ import annotations

import time

import pytest

from hostctl.config import networks
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.config.names import Name
from hostctl.config.problems import DeclarationError
from hostctl.config.references import PortMapping

HEAD = "version: 1\nhostname: a\n"
IMAGE = "image: 'registry.example/web:1'"


def parse(networks: str = "", **workloads: str) -> HostDeclaration:
    lines = [f"  {name}: {{{IMAGE}, {rest}}}\n" for name, rest in workloads.items()]
    body = f"workloads:\n{''.join(lines)}" if lines else ""
    return parse_host(f"{HEAD}{networks}{body}", "host.yaml")


def problems(text: str = "", **workloads: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        parse(text, **workloads)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_workload_is_on_named_networks_in_their_order() -> None:
    text = "networks: {front: {subnet: 10.90.1.0/24}, back: {}}\n"
    host = parse(
        text, web="networks: [back, front]", db="networks: {front: {aliases: [sql], ipv4: 10.90.1.7}}", x="pids: 5"
    )
    on = {str(name): networks.attachments(workload) for name, workload in host.workloads.items()}
    assert list(on["web"]) == ["back", "front"]
    assert on["db"]["front"].aliases == (Name("sql"),)
    assert list(on["x"]) == ["default"]
    assert networks.attachments(parse(web="network: host").workloads[Name("web")]) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("networks: {a: {subnet: 10.1.2.3/24}}", "networks.a.subnet: '10.1.2.3/24' is an address inside a network"),
        ("networks: {a: {subnet: 10.1.2.0/31}}", "networks.a.subnet: '10.1.2.0/31' is not an IPv4 network"),
        ("networks: {a: {subnet: 127.0.0.0/8}}", "networks.a.subnet: '127.0.0.0/8' is loopback"),
        ("networks: {a: {ipv6: fd00::1/64}}", "networks.a.ipv6: 'fd00::1/64' is an address inside a network"),
        ("networks: {a: {ipv6: fd00::/80}}", "networks.a.ipv6: 'fd00::/80' is not an IPv6 network"),
        ("networks: {a: {ipv6: fe80::/64}}", "networks.a.ipv6: 'fe80::/64' is link-local"),
        ("networks: {a: {mtu: 575}}", "networks.a.mtu: must be from 576 to 65535"),
        ("networks: {a: {mtu: 1279, ipv6: pool}}", "networks.a.mtu: must be from 1280 to 65535"),
        ("networks: {a: {parent: eth0}}", "networks.a.parent: only a macvlan network has one"),
        ("networks: {a: {range: 10.1.2.0/25}}", "networks.a.range: it is part of a subnet"),
        ("networks: {a: {subnet: 10.1.2.0/24, range: 10.1.3.0/25}}", "networks.a.range: 10.1.3.0/25 is not inside"),
        ("networks: {a: {subnet: 10.1.2.0/24, gateway: 10.1.2.0}}", "networks.a.gateway: 10.1.2.0 is not an address"),
        ("networks: {a: {driver: macvlan, parent: eth0}}", "networks.a: subnet: a macvlan network needs that of its"),
        (
            "networks: {a: {driver: macvlan, subnet: 10.1.2.0/24}}",
            "networks.a: parent: a macvlan network needs the link",
        ),
        ("networks: {a: {subnet: 10.1.0.0/16}, b: {subnet: 10.1.2.0/24}}", "networks.b.subnet: 10.1.2.0/24 overlaps"),
        (
            "networks: {a: {ipv6: 'fd00::/48'}, b: {ipv6: 'fd00:0:0:1::/64'}}",
            "networks.b.ipv6: fd00:0:0:1::/64 overlaps",
        ),
        (
            "network: {lan: {match: eth0, addresses: [10.1.2.9/24]}}\nnetworks: {a: {subnet: 10.1.0.0/16}}",
            "networks.a.subnet: 10.1.0.0/16 overlaps 10.1.2.0/24 of network.lan",
        ),
        ("network_pool: {ipv4: 10.1.0.0/23}", "network_pool.ipv4: the prefix length must be at most 22"),
    ],
)
def test_a_network_that_cannot_work_is_refused(text: str, said: str) -> None:
    found = problems(f"{text}\n")
    assert any(said in line for line in found), found


def test_the_pool_must_not_be_where_the_host_is() -> None:
    text = "network: {lan: {match: eth0, addresses: [10.88.3.9/24]}}\n"
    assert "its first half, 10.88.0.0/16, overlaps 10.88.3.0/24 of network.lan" in problems(text, web="pids: 5")[0]
    assert parse(f"{text}network_pool: {{ipv4: 172.20.0.0/16}}\n", web="pids: 5")


FIRST_HALF = "networks: {b: {subnet: 10.88.5.0/24}}\n"


@pytest.mark.parametrize(
    ("text", "workloads"),
    [
        (FIRST_HALF, {"web": "networks: [b]", "other": "pids: 5"}),
        (FIRST_HALF, {"web": "networks: [b, default]"}),
        (FIRST_HALF.replace("{b:", "{default: {ipv6: pool}, b:"), {"web": "networks: [b]"}),
    ],
)
def test_a_declared_subnet_is_not_inside_what_the_network_default_has(text: str, workloads: dict[str, str]) -> None:
    assert problems(text, **workloads) == [
        "networks.b.subnet: 10.88.5.0/24 overlaps 10.88.0.0/16, the first half of network_pool, which network "
        "'default' has; choose another one, or give networks.default a subnet of its own"
    ]


def test_it_may_be_there_where_the_network_default_is_elsewhere_or_nowhere() -> None:
    assert parse(FIRST_HALF, web="networks: [b]", far="network: host")
    both = {"web": "networks: [b]", "other": "pids: 5"}
    assert parse(FIRST_HALF.replace("{b:", "{default: {subnet: 10.91.0.0/24}, b:"), **both)
    assert parse(f"{FIRST_HALF}network_pool: {{ipv4: 172.20.0.0/16}}\n", **both)


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ("networks: [nope]", "workloads.web.networks: network 'nope' is not declared under networks"),
        ("networks: [front, front]", "workloads.web.networks: a network is named twice"),
        ("networks: [front], network: host", "workloads.web.networks: network: host is on none of them"),
        ("networks: {front: {ipv4: 10.91.0.2}}", "ipv4: 10.91.0.2 is not an address of the subnet 10.90.1.0/24"),
        ("networks: {front: {ipv4: 10.90.1.0}}", "ipv4: 10.90.1.0 is not an address of the subnet 10.90.1.0/24"),
        ("networks: {front: {ipv4: 10.90.1.1}}", "ipv4: 10.90.1.1 is the gateway's"),
        ("networks: {front: {ipv4: 'fd00::2'}}", "ipv4: fd00::2 is an IPv6 address"),
        (
            "networks: {front: {ipv6: 'fd00:5::1'}}",
            "ipv6: fd00:5::1 is not an address of fd00:5::/64, or the gateway's",
        ),
        ("networks: {back: {ipv4: 10.89.0.2}}", "ipv4: the network has no declared subnet"),
        ("networks: {back: {ipv6: 'fd00::2'}}", "ipv6: the network has no declared IPv6 network"),
        ("networks: [inner, lan], ports: ['80:80']", "ports: none of its networks can publish ports"),
        (
            "networks: [inner, lan, front], ports: ['80:80']",
            "workloads.web.networks: 'lan' is macvlan and the way out, so answers to who asks the "
            "ports at 'front' would not go through the host; put 'front' before it",
        ),
        ("networks: [back], ports: ['[fd00::9]:80:80']", "ports[0]: an IPv6 address needs a network with IPv6"),
        ("networks: [front], ports: ['[::1]:80:80/udp']", "did you mean 127.0.0.1:80:80/udp?"),
        ("network: none, ports: ['80:80']", "ports: only network: private can publish ports"),
        ("dns: {servers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}", "dns.servers: at most 3 are possible"),
        ("dns: {search: ['-x']}", "dns.search[0]: '-x' is not a domain"),
    ],
)
def test_a_workload_that_cannot_be_connected_is_refused(workload: str, said: str) -> None:
    text = (
        "networks: {front: {subnet: 10.90.1.0/24, ipv6: 'fd00:5::/64'}, back: {}, inner: {internal: true}, "
        "lan: {driver: macvlan, parent: eth0, subnet: 192.168.0.0/24}}\n"
    )
    found = problems(text, web=workload)
    assert any(said in line for line in found), found


@pytest.mark.parametrize("rest", ["networks: [lan, front]", "networks: [front, lan], ports: ['80:80']"])
def test_a_macvlan_network_may_stand_first_where_nothing_is_published_and_else_behind(rest: str) -> None:
    assert parse("networks: {front: {}, lan: {driver: macvlan, parent: eth0, subnet: 192.168.0.0/24}}\n", web=rest)


@pytest.mark.parametrize(
    ("on", "asked"), [("[inner, lan]", False), ("[lan, inner]", False), ("[lan, inner, front]", True), ("[lan]", True)]
)
def test_name_servers_that_nobody_would_ask_are_refused(on: str, asked: bool) -> None:
    text = (
        "networks: {front: {}, inner: {internal: true}, lan: {driver: macvlan, parent: eth0, subnet: 192.168.0.0/24}}\n"
    )
    assert parse(text, web=f"networks: {on}")
    if asked:
        assert parse(text, web=f"networks: {on}, dns: {{servers: [192.168.0.1]}}")
        return
    [said] = problems(text, web=f"networks: {on}, dns: {{servers: [192.168.0.1]}}")
    assert said.startswith(
        "workloads.web.dns.servers: they would not be asked: the way out, 'lan', is macvlan, and the name server at "
        "'inner', which is internal, asks nobody"
    )


def test_an_internal_macvlan_network_has_no_route_that_answers_could_leave_by() -> None:
    lan = "lan: {driver: macvlan, parent: eth0, subnet: 192.168.0.0/24, internal: true}"
    assert parse(f"networks: {{front: {{}}, {lan}}}\n", web="networks: [lan, front], ports: ['80:80']")


def test_an_address_is_given_once() -> None:
    text = "networks: {front: {subnet: 10.90.1.0/24}}\n"
    two = dict.fromkeys(("a", "b"), "networks: {front: {ipv4: 10.90.1.7}}")
    assert problems(text, **two) == ["workloads.b.networks.front.ipv4: 10.90.1.7 is already the address of 'a'"]
    assert parse(web="networks: {default: {ipv4: 10.88.0.9}}")


@pytest.mark.parametrize(
    ("on", "clash"), [("{back: {aliases: [sql, db]}}", True), ("{default: {aliases: [db]}, back: {}}", False)]
)
def test_an_alias_is_no_other_workloads_name_on_a_network_that_both_are_on(on: str, clash: bool) -> None:
    text = "networks: {back: {}}\n"
    workloads = {"web": f"networks: {on}", "db": "networks: [back]", "far": "pids: 5"}
    if not clash:
        assert parse(text, **workloads)
        return
    [said] = problems(text, **workloads)
    assert said == (
        "workloads.web.networks.back.aliases[1]: workload 'db' of this network has that name, so it would lead to "
        "either; choose another alias"
    )


def test_several_workloads_may_share_an_alias_and_one_may_have_its_own_name_as_such() -> None:
    on = "networks: {default: {aliases: [both, %s]}}"
    assert parse(a=on % "a", b=on % "b")


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("8000-8010:80-90", "8010:1", True),
        ("8000-8010:80-90", "8011-8020:1-10", False),
        ("8000-8010:80-90", "8005:1/udp", False),
        ("127.0.0.1:80:80", "80:80", True),
        ("80:80", "127.0.0.1:80:80", True),
        ("0.0.0.0:80:80", "127.0.0.1:80:80", True),
        ("127.0.0.1:80:80", "127.0.0.2:70-90:70-90", False),
        ("0.0.0.0:80:80", "[fd00::9]:80:80", False),
        ("80:80", "[fd00::9]:80:80", True),
        ("[::]:80:80", "[fd00::9]:80:80", True),
        ("65535:1", "1-65535:1-65535", True),
    ],
)
def test_ports_and_ranges_are_published_once(first: str, second: str, clash: bool) -> None:
    text = "networks: {default: {ipv6: pool}}\n"
    both = {"a": f"ports: ['{first}']", "b": f"ports: ['{second}']"}
    if not clash:
        assert parse(text, **both)
        return
    [said] = problems(text, **both)
    assert said.startswith("workloads.b.ports[0]: host port")
    assert said.endswith("is already published by 'a'")


def test_many_ranges_at_many_addresses_are_compared_soon() -> None:
    ports = [f"10.{n >> 8}.{n & 255}.1:1-65535:1-65535" for n in range(400)] + ["80:80"] * 400
    began = time.process_time()
    found = problems(web=f"ports: [{', '.join(map(repr, ports))}]")
    assert len(found) >= 100
    assert time.process_time() - began < 10


@pytest.mark.parametrize("text", ["8000-8010:80-91", "8010-8000:1-2", "1-0:1", "0-5:1-6", "65530-65536:1-7", "1-2-3:1"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|ends|ranges"):
        PortMapping.parse(text)


@pytest.mark.parametrize("text", ["8000-8010:80-90/udp", "[::1]:8080:80", "127.0.0.1:1-2:3-4", "80:80"])
def test_a_port_is_written_as_it_was_read(text: str) -> None:
    assert str(PortMapping.parse(text)) == text
