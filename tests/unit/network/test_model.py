"""Addresses are stable and reused late; network.json is read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.config.references import PortMapping
from hostctl.network.model import (
    NetworkFullError,
    NetworkPlan,
    NetworkPlanError,
    PublishedAddressError,
    Wanted,
    allocate,
    decode,
    encode,
)

START = 0x10000000


def wanted(*names: str) -> list[Wanted]:
    return [Wanted(name=name, userns_start=START + 65536 * ord(name[0])) for name in names]


def addresses(plan: NetworkPlan) -> dict[str, str]:
    return {each.name: str(each.address) for each in plan.workloads}


def test_first_addresses_follow_the_gateway() -> None:
    assert addresses(allocate(wanted("b", "a"))) == {"a": "10.88.0.2", "b": "10.88.0.3"}


def test_what_is_declared_keeps_its_address() -> None:
    plan = allocate(wanted("b", "c"))
    assert addresses(allocate(wanted("a", "b", "c"), plan)) == {"a": "10.88.0.4", "b": "10.88.0.2", "c": "10.88.0.3"}


def test_a_freed_address_is_the_last_to_be_used_again() -> None:
    plan = allocate(wanted("b"), allocate(wanted("a", "b")))
    assert addresses(allocate(wanted("b", "c"), plan))["c"] == "10.88.0.4"
    assert addresses(allocate(wanted("c"), allocate(wanted("a"))))["c"] == "10.88.0.3"


def test_addresses_go_round_and_run_out() -> None:
    small = NetworkPlan(subnet=IPv4Network("10.88.0.0/29"), gateway=IPv4Address("10.88.0.1"))
    full = allocate(wanted("a", "b", "c", "d", "e"), small)
    assert sorted(addresses(full).values()) == [f"10.88.0.{host}" for host in range(2, 7)]
    again = allocate(wanted("a", "b", "c", "d", "z"), full)
    assert addresses(again)["z"] == addresses(full)["e"]
    with pytest.raises(NetworkFullError):
        allocate(wanted("a", "b", "c", "d", "e", "f"), full)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefghij")), max_size=8))
def test_every_history_keeps_addresses_distinct_and_stable(history: list[set[str]]) -> None:
    plan = NetworkPlan(subnet=IPv4Network("10.88.0.0/28"))
    for names in history:
        new = allocate(wanted(*names), plan)
        held = addresses(plan)
        assert all(held.get(name, address) == address for name, address in addresses(new).items())
        assert decode(encode(new)) == new
        plan = new


def test_the_file_gives_back_the_plan() -> None:
    ports = (PortMapping.parse("127.0.0.1:8080:80"), PortMapping.parse("53:53/udp"))
    plan = allocate([Wanted(name="site", userns_start=START, ports=ports)])
    assert decode(encode(plan)) == plan
    assert encode(decode(encode(plan))) == encode(plan)


def test_an_ipv6_address_is_refused_before_anything_is_in_force() -> None:
    with pytest.raises(PublishedAddressError, match="workload site"):
        allocate([Wanted(name="site", userns_start=START, ports=(PortMapping.parse("[::1]:8080:80"),))])
    stored = encode(allocate([Wanted(name="site", userns_start=START, ports=(PortMapping.parse("8080:80"),))]))
    with pytest.raises(PublishedAddressError):
        decode(stored.replace(b"8080:80", b"[::1]:8080:80"))


def test_an_empty_object_is_a_generation_without_workloads() -> None:
    assert decode(b"{}\n") == NetworkPlan()


Document = dict[str, object]


def edit(key: str, value: object) -> Callable[[Document], object]:
    return lambda document: document.update({key: value})


def edit_site(key: str, value: object) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        workloads = document["workloads"]
        assert isinstance(workloads, dict)
        workloads["site"][key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("format", 2),
        edit("format", True),
        edit("more", 1),
        edit("bridge", "br0; drop"),
        edit("bridge", "a" * 16),
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
def test_anything_else_is_refused(change: Callable[[Document], object]) -> None:
    plan = allocate([Wanted(name="site", userns_start=START + 65536), Wanted(name="two", userns_start=START)])
    document = json.loads(encode(plan))
    change(document)
    with pytest.raises(NetworkPlanError):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"format": 1, "format": 1}', b"[" * 100000])
def test_no_document_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(NetworkPlanError):
        decode(data)
