"""network.json: both formats give back the plan, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from hostctl.config.references import PortMapping
from hostctl.network.allocate import Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.document import decode, encode
from hostctl.network.model import Network, NetworkPlan, NetworkPlanError

START = 0x10000000
NETWORKS = (
    WantedNetwork(name="front", subnet6="pool", mtu=1400),
    WantedNetwork(name="back", internal=True, gateway=IPv4Address("10.90.0.9"), subnet=IPv4Network("10.90.0.0/24")),
    WantedNetwork(name="lan", driver="macvlan", parent="enp1s0", subnet=IPv4Network("192.168.1.0/24")),
)
ON = tuple(WantedAttachment(network=name, aliases=("www", "w3")) for name in ("front", "back", "lan"))
PORTS = ("[::1]:8080:80", "8000-8010:80-90/udp")


def plain() -> NetworkPlan:
    ports = (PortMapping.parse("127.0.0.1:8080:80"), PortMapping.parse("53:53/udp"))
    return allocate(
        [Wanted(name="site", userns_start=START + 65536, ports=ports), Wanted(name="two", userns_start=START)]
    )


def full() -> NetworkPlan:
    ports = tuple(PortMapping.parse(port) for port in PORTS)
    site = Wanted(name="site", userns_start=START, attachments=ON, ports=ports, dns=("9.9.9.9",))
    return allocate([site, Wanted(name="two", userns_start=START + 65536)], networks=NETWORKS)


def changed() -> NetworkPlan:
    """Return a plan in which a workload has left a network while it ran."""
    one = Wanted(name="site", userns_start=START, attachments=ON[:2], lasting=True)
    former = allocate([one], networks=NETWORKS)
    return allocate([replace(one, attachments=ON[1:2])], former, NETWORKS)


@pytest.mark.parametrize("plan", [plain(), full(), NetworkPlan(), allocate([], plain()), changed()])
def test_the_file_gives_back_the_plan(plan: NetworkPlan) -> None:
    assert decode(encode(plan)) == plan
    assert encode(decode(encode(plan))) == encode(plan)


def test_what_a_release_with_one_network_understands_is_written_as_it_reads_it() -> None:
    document = json.loads(encode(plain()))
    assert (document["format"], document["bridge"]) == (1, "hostctl0")
    assert document["workloads"]["site"]["address"] == "10.88.0.2"
    assert json.loads(encode(full()))["format"] == 2
    assert json.loads(encode(allocate([Wanted(name="a", userns_start=START, dns=("9.9.9.9",))])))["format"] == 2


def test_a_generation_of_such_a_release_is_read() -> None:
    data = b"""{"format": 1, "bridge": "hostctl0", "subnet": "10.88.0.0/16", "gateway": "10.88.0.1",
    "last": "10.88.0.7", "workloads":
    {"web": {"address": "10.88.0.7", "userns_start": 268435456, "ports": ["8080:80"]}}}"""
    plan = decode(data)
    subnet = IPv4Network("10.88.0.0/16")
    assert plan.networks == (Network(name="default", subnet=subnet, gateway=subnet[1], last=IPv4Address("10.88.0.7")),)
    after = allocate([Wanted(name=name, userns_start=START) for name in ("web",)], plan)
    assert after.workloads[0].attachments == plan.workloads[0].attachments


Document = dict[str, object]


def edit(key: str, value: object) -> Callable[[Document], object]:
    return lambda document: document.update({key: value})


def edit_in(where: str, name: str, key: str, value: object) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        part = document[where]
        assert isinstance(part, dict)
        part[name][key] = value

    return change


def edit_site(key: str, value: object) -> Callable[[Document], object]:
    return edit_in("workloads", "site", key, value)


def edit_place(key: str, value: object) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        workloads = document["workloads"]
        assert isinstance(workloads, dict)
        workloads["site"]["attachments"][0][key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("format", 3),
        edit("format", True),
        edit("more", 1),
        edit("bridge", "br0; drop"),
        edit("subnet", "10.88.0.1/16"),
        edit("subnet", "fd00::/64"),
        edit("subnet", "10.88.0.0/31"),
        edit("gateway", "10.89.0.1"),
        edit("gateway", "10.88.0.0"),
        edit("gateway", "10.88.0.2"),
        edit("last", "10.88.255.255"),
        edit("workloads", []),
        edit("workloads", {"../up": {"address": "10.88.0.2", "userns_start": START, "ports": []}}),
        edit_site("address", "10.88.0.3"),
        edit_site("address", "10.90.0.3"),
        edit_site("address", 1),
        edit_site("userns_start", 0),
        edit_site("userns_start", True),
        edit_site("userns_start", START + 1),
        edit_site("userns_start", 0xFFFFFFFF),
        edit_site("ports", ["8080"]),
        edit_site("ports", [1]),
        edit_site("ports", "8080:80"),
        edit_site("extra", "1"),
    ],
)
def test_anything_else_is_refused_in_the_old_format(change: Callable[[Document], object]) -> None:
    document = json.loads(encode(plain()))
    change(document)
    with pytest.raises(NetworkPlanError):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        edit("networks", {}),
        edit("networks", []),
        edit("workloads", {"a b": {}}),
        edit_in("networks", "front", "subnet", "10.90.0.0/16"),
        edit_in("networks", "front", "subnet6", "fd00::/65"),
        edit_in("networks", "front", "subnet6", None),
        edit_in("networks", "front", "driver", "vlan"),
        edit_in("networks", "front", "driver", "macvlan"),
        edit_in("networks", "front", "parent", "eth0"),
        edit_in("networks", "lan", "parent", "eth0; reboot"),
        edit_in("networks", "lan", "parent", ""),
        edit_in("networks", "front", "internal", 1),
        edit_in("networks", "front", "mtu", 70000),
        edit_in("networks", "front", "mtu", "1400"),
        edit_in("networks", "front", "gateway", None),
        edit_in("networks", "back", "gateway", "10.90.0.2"),
        edit_site("attachments", []),
        edit_site("dns", ["example.org"]),
        edit_place("network", "none"),
        edit_place("network", "back"),
        edit_place("aliases", ["a b"]),
        edit_place("aliases", "www"),
        edit_place("address", "10.89.0.1"),
        edit_place("address6", "fd00::2"),
        edit_place("address6", None),
    ],
)
def test_anything_else_is_refused(change: Callable[[Document], object]) -> None:
    document = json.loads(encode(full()))
    change(document)
    with pytest.raises(NetworkPlanError):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"format": 1, "format": 1}', b"[" * 100000])
def test_no_document_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(NetworkPlanError):
        decode(data)


def test_an_empty_object_is_a_generation_without_networks() -> None:
    assert decode(b"{}\n") == NetworkPlan()
    assert encode(NetworkPlan()) == b"{}\n"


@pytest.mark.parametrize("interfaces", [[], [0, 1], [1, 1], [-1], ["1"], [True], 1, None, [10_000]])
def test_interfaces_that_are_none_are_refused(interfaces: object) -> None:
    document = json.loads(encode(changed()))
    assert document["workloads"]["site"]["interfaces"] == [1]
    document["workloads"]["site"]["interfaces"] = interfaces
    with pytest.raises(NetworkPlanError):
        decode(json.dumps(document).encode())


def test_only_what_changed_while_it_ran_needs_a_release_that_knows_of_it() -> None:
    one = Wanted(name="site", userns_start=START, lasting=True)
    assert b"interfaces" not in encode(allocate([one], allocate([one])))
    assert json.loads(encode(allocate([one], allocate([one]))))["format"] == 1
