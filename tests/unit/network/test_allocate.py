"""Addresses are stable and reused late; subnets do not collide with each other or with what the host is in."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.config.references import PortMapping
from hostctl.network.allocate import Pools, Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.document import decode, encode
from hostctl.network.model import (
    NetworkCollisionError,
    NetworkFullError,
    NetworkPlan,
    PublishedAddressError,
)

START = 0x10000000


def wanted(*names: str, on: Sequence[str] = ("default",)) -> list[Wanted]:
    places = tuple(WantedAttachment(network=network) for network in on)
    return [Wanted(name=name, userns_start=START + 65536 * ord(name[0]), attachments=places) for name in names]


def static(name: str, address: str | None = None, address6: str | None = None) -> Wanted:
    place = WantedAttachment(
        address=IPv4Address(address) if address else None, address6=IPv6Address(address6) if address6 else None
    )
    return Wanted(name=name, userns_start=START + 65536 * ord(name[0]), attachments=(place,))


def addresses(plan: NetworkPlan) -> dict[str, str]:
    return {each.name: str(each.attachments[0].address) for each in plan.workloads}


def small(prefix: int) -> list[WantedNetwork]:
    return [WantedNetwork(subnet=IPv4Network(f"10.88.0.0/{prefix}"))]


def test_first_addresses_follow_the_gateway() -> None:
    assert addresses(allocate(wanted("b", "a"))) == {"a": "10.88.0.2", "b": "10.88.0.3"}


def test_what_is_declared_keeps_its_address() -> None:
    plan = allocate(wanted("b", "c"))
    assert addresses(allocate(wanted("a", "b", "c"), plan)) == {"a": "10.88.0.4", "b": "10.88.0.2", "c": "10.88.0.3"}


def test_a_freed_address_is_the_last_to_be_used_again() -> None:
    plan = allocate(wanted("b"), allocate(wanted("a", "b")))
    assert addresses(allocate(wanted("b", "c"), plan))["c"] == "10.88.0.4"
    assert addresses(allocate(wanted("c"), allocate(wanted("a"))))["c"] == "10.88.0.3"
    assert addresses(allocate(wanted("c"), allocate([], allocate(wanted("a")))))["c"] == "10.88.0.3"


def test_addresses_go_round_and_run_out() -> None:
    full = allocate(wanted("a", "b", "c", "d", "e"), networks=small(29))
    assert sorted(addresses(full).values()) == [f"10.88.0.{host}" for host in range(2, 7)]
    again = allocate(wanted("a", "b", "c", "d", "z"), full, small(29))
    assert addresses(again)["z"] == addresses(full)["e"]
    with pytest.raises(NetworkFullError):
        allocate(wanted("a", "b", "c", "d", "e", "f"), full, small(29))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefghij")), max_size=8))
def test_every_history_keeps_addresses_distinct_and_stable(history: list[set[str]]) -> None:
    networks = [*small(28), WantedNetwork(name="front", subnet6="pool")]
    plan = NetworkPlan()
    for names in history:
        new = allocate(wanted(*names, on=("front", "default")), plan, networks)
        held = {each.name: each.attachments for each in plan.workloads}
        assert all(held.get(each.name, each.attachments) == each.attachments for each in new.workloads)
        assert decode(encode(new)) == new
        plan = new


def test_networks_get_subnets_of_the_pool_and_keep_them() -> None:
    front, back = WantedNetwork(name="front"), WantedNetwork(name="back", subnet6="pool")
    plan = allocate(wanted("a", on=("front",)), networks=[front])
    assert [str(network.subnet) for network in plan.networks] == ["10.89.0.0/24"]
    more = allocate(wanted("a", on=("back", "front", "default")), plan, [back, front])
    assert {network.name: str(network.subnet) for network in more.networks} == {
        "back": "10.89.1.0/24",
        "default": "10.88.0.0/16",
        "front": "10.89.0.0/24",
    }
    assert more.network("back").subnet6 == IPv6Network("fd68:6f73:7463::/64")
    assert str(more.workloads[0].attachments[0].address6) == "fd68:6f73:7463::2"
    elsewhere = Pools(ipv4=IPv4Network("172.20.0.0/16"), ipv6=IPv6Network("fd00:1::/48"))
    moved = allocate(wanted("a", on=("back", "front", "default")), more, [back, front], elsewhere)
    assert str(moved.network("default").subnet) == "172.20.0.0/17"
    assert str(moved.network("front").subnet) == "172.20.129.0/24"
    assert str(moved.network("back").subnet6) == "fd00:1::/64"
    assert all(place.address in moved.network(place.network).subnet for place in moved.workloads[0].attachments)


def test_subnets_avoid_what_the_host_is_in() -> None:
    pools = Pools(taken={"eth0 (10.89.0.0/23)": IPv4Network("10.89.0.0/23")})
    front = WantedNetwork(name="front")
    plan = allocate(wanted("a", on=("front",)), networks=[front], pools=pools)
    assert str(plan.network("front").subnet) == "10.89.2.0/24"
    declared = WantedNetwork(name="front", subnet=IPv4Network("10.89.1.0/24"))
    with pytest.raises(NetworkCollisionError, match="eth0"):
        allocate(wanted("a", on=("front",)), networks=[declared], pools=pools)
    with pytest.raises(NetworkCollisionError, match="network default"):
        allocate(wanted("a"), pools=Pools(taken={"eth0": IPv4Network("10.0.0.0/8")}))


def test_what_is_there_stays_when_the_host_gets_into_such_a_network_later() -> None:
    plan = allocate(wanted("a"))
    pools = Pools(taken={"eth0": IPv4Network("10.88.0.0/16")})
    assert addresses(allocate(wanted("a", "b"), plan, pools=pools)) == {"a": "10.88.0.2", "b": "10.88.0.3"}


def test_the_network_default_that_nobody_is_on_makes_way_for_a_declared_one() -> None:
    plan = allocate(wanted("a"))
    apart = WantedNetwork(name="b", subnet=IPv4Network("10.91.5.0/24"))
    beside = WantedNetwork(name="b", subnet=IPv4Network("10.88.5.0/24"))
    assert [each.name for each in allocate(wanted("a", on=["b"]), plan, [apart]).networks] == ["b", "default"]
    assert [each.name for each in allocate(wanted("a", on=["b"]), plan, [beside]).networks] == ["b"]


@pytest.mark.parametrize(
    ("declared", "place"),
    [
        (WantedNetwork(name="b", subnet=IPv4Network("10.89.0.0/20")), r"networks\.b\.subnet: 10\.89\.0\.0/20"),
        (WantedNetwork(name="b", subnet6=IPv6Network("fd68:6f73:7463::/64")), r"networks\.b\.ipv6: fd68"),
        (
            WantedNetwork(name="b", driver="macvlan", parent="eth0", subnet=IPv4Network("10.89.0.128/25")),
            r"networks\.b\.subnet",
        ),
    ],
)
def test_a_declared_subnet_drives_no_workloads_out_of_what_their_network_has(
    declared: WantedNetwork, place: str
) -> None:
    front = WantedNetwork(name="front", subnet6="pool")
    plan = allocate(wanted("a", on=["front"]), networks=[front])
    with pytest.raises(NetworkCollisionError, match=place) as caught:
        allocate([*wanted("a", on=["front"]), *wanted("c", on=["b"])], plan, [front, declared])
    assert "networks.front" in (caught.value.hint or "")
    moved = WantedNetwork(name="front", subnet=IPv4Network("10.91.0.0/24"))
    assert allocate([*wanted("a", on=["front"]), *wanted("c", on=["b"])], plan, [moved, declared])
    left = allocate(wanted("c", on=["b"]), plan, [front, declared])
    assert not left.network("front").subnet.overlaps(left.network("b").subnet)


def test_a_network_that_another_pool_is_for_moves_whatever_is_declared() -> None:
    front = WantedNetwork(name="front")
    plan = allocate(wanted("a", on=["front"]), networks=[front])
    declared = WantedNetwork(name="b", subnet=IPv4Network("10.89.0.0/24"))
    pools = Pools(ipv4=IPv4Network("172.20.0.0/16"))
    assert str(allocate(wanted("a", on=["front"]), plan, [front, declared], pools).network("front").subnet).startswith(
        "172.20."
    )


def test_the_pool_runs_out() -> None:
    pools = Pools(ipv4=IPv4Network("10.88.0.0/22"))
    names = ["one", "two", "three"]
    with pytest.raises(NetworkFullError, match="pool"):
        allocate(wanted("a", on=names), networks=[WantedNetwork(name=name) for name in names], pools=pools)


def test_static_addresses_are_kept_free_for_their_workload() -> None:
    plan = allocate([*wanted("a"), static("b", "10.88.0.2")])
    assert addresses(plan) == {"a": "10.88.0.3", "b": "10.88.0.2"}
    assert addresses(allocate(wanted("a", "b"), plan)) == {"a": "10.88.0.3", "b": "10.88.0.2"}
    with pytest.raises(NetworkCollisionError, match=r"c is to have 10\.88\.0\.3, the address of a"):
        allocate([*wanted("a"), static("c", "10.88.0.3")], plan)


def test_addresses_are_handed_out_from_the_declared_part() -> None:
    network = WantedNetwork(subnet=IPv4Network("10.1.0.0/24"), range=IPv4Network("10.1.0.252/30"))
    plan = allocate(wanted("a", "b", "c"), networks=[network])
    assert addresses(plan) == {"a": "10.1.0.252", "b": "10.1.0.253", "c": "10.1.0.254"}
    with pytest.raises(NetworkFullError):
        allocate(wanted("a", "b", "c", "d"), plan, [network])


def test_a_static_ipv6_address_makes_way_for_nobody() -> None:
    network = WantedNetwork(subnet6=IPv6Network("fd00::/64"))
    plan = allocate([*wanted("a"), static("b", None, "fd00::2")], networks=[network])
    a, b = (each.attachments[0].address6 for each in plan.workloads)
    assert str(b) == "fd00::2"
    assert str(a) == "fd00::1:0:0"


def test_a_static_ipv6_address_is_not_taken_from_whoever_has_it() -> None:
    network = WantedNetwork(subnet6=IPv6Network("fd00::/64"))
    plan = allocate(wanted("a"), networks=[network])
    with pytest.raises(NetworkCollisionError, match="b is to have fd00::2, the address of a"):
        allocate([*wanted("a"), static("b", None, "fd00::2")], plan, [network])
    assert allocate([static("a", None, "fd00::9"), static("b", None, "fd00::2")], plan, [network])


def test_a_new_workload_gets_no_ipv6_address_that_another_keeps() -> None:
    network = WantedNetwork(subnet=IPv4Network("10.1.0.0/29"), subnet6=IPv6Network("fd00::/64"))
    plan = allocate(wanted("z"), networks=[network])
    moved = allocate([static("z", "10.1.0.6")], plan, [network])
    assert str(moved.workloads[0].attachments[0].address6) == "fd00::2"
    more = allocate([*wanted("a", "c", "d", "e"), static("z", "10.1.0.6")], moved, [network])
    held = {each.name: str(each.attachments[0].address6) for each in more.workloads}
    assert (addresses(more)["e"], held["z"]) == ("10.1.0.2", "fd00::2")
    assert len(set(held.values())) == len(held)


def test_a_port_needs_a_network_that_lets_it_in() -> None:
    six = PortMapping.parse("[::1]:8080:80")
    with pytest.raises(PublishedAddressError, match="workload site"):
        allocate([Wanted(name="site", userns_start=START, ports=(six,))])
    assert allocate([Wanted(name="site", userns_start=START, ports=(six,))], networks=[WantedNetwork(subnet6="pool")])
    with pytest.raises(PublishedAddressError, match="cannot be published"):
        allocate(
            [Wanted(name="site", userns_start=START, ports=(PortMapping.parse("80:80"),))],
            networks=[WantedNetwork(internal=True)],
        )
