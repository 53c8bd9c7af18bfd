"""Which remembered flows of UDP are decided anew: those of published ports that lead elsewhere, and no others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network, ip_address

import pytest

from hostctl.config.references import PortMapping
from hostctl.network.allocate import Wanted, WantedNetwork, allocate
from hostctl.network.flows import Flow, publishes, stale
from hostctl.network.model import NetworkPlan

HOST, OTHER = "192.0.2.1", "198.51.100.9"
LOCAL = frozenset(map(ip_address, (HOST, "2001:db8::1", "10.88.0.1", "fd00:1::1", "127.0.0.1", "::1")))
FRONT = WantedNetwork(subnet6=IPv6Network("fd00:1::/64"))


def plan(*ports: str, replicas: int = 1) -> NetworkPlan:
    mappings = tuple(PortMapping.parse(port) for port in ports)
    one = Wanted(name="log", userns_start=0x10000000, ports=mappings)
    more = [replace(one, instance=str(n), userns_start=0x10000000 + n * 65536) for n in range(2, replicas + 1)]
    return allocate([one, *more], networks=[FRONT])


def flow(asked: str, answers: str) -> Flow:
    """Return a flow, each end written as in ADDRESS-PORT."""
    (here, port), (there, answers_from) = (end.split("-") for end in (asked, answers))
    return Flow(asked=ip_address(here), port=int(port), answers=ip_address(there), answers_from=int(answers_from))


@pytest.mark.parametrize(
    ("asked", "answers", "goes"),
    [
        (f"{HOST}-514", f"{HOST}-514", True),  # from before the port was published
        (f"{HOST}-514", "10.88.0.77-5514", True),  # to where the workload was
        (f"{HOST}-514", "10.88.0.2-5514", False),
        (f"{HOST}-514", "10.88.0.2-514", True),  # to the port that it was
        (f"{HOST}-515", f"{HOST}-515", False),
        ("127.0.0.1-514", "127.0.0.1-514", True),
        ("127.0.0.9-514", "127.0.0.9-514", True),
        ("127.0.0.53-514", "127.0.0.53-514", False),
        ("::1-514", "::1-514", False),
        ("2001:db8::1-514", "2001:db8::1-514", True),
        ("2001:db8::1-514", "fd00:1::2-5514", False),
        (f"{OTHER}-514", f"{OTHER}-514", False),  # what a workload or the host asks of somebody else
        (f"{HOST}-7001", "10.88.0.2-8001", False),
        (f"{HOST}-7001", "10.88.0.2-8000", True),
        (f"{HOST}-7002", f"{HOST}-7002", False),
        (f"{HOST}-53", f"{HOST}-53", True),
        ("10.88.0.1-53", "10.88.0.1-53", False),  # the name server
        ("10.88.0.1-514", "10.88.0.1-514", True),
        (f"{HOST}-80", f"{HOST}-80", False),  # published, but for tcp
        (f"{HOST}-99", f"{HOST}-99", False),  # at another address
        ("127.0.0.1-99", "127.0.0.1-99", True),
    ],
)
def test_flows_of_published_ports_that_lead_elsewhere_go(asked: str, answers: str, goes: bool) -> None:
    made = plan("514:5514/udp", "7000-7001:8000-8001/udp", "53:53/udp", "80:80", "127.0.0.1:99:99/udp")
    one = flow(asked, answers)
    assert list(stale(made, [one], LOCAL)) == ([one] if goes else [])


def test_any_replica_is_right_and_one_that_is_gone_is_not() -> None:
    three, two = plan("514:514/udp", replicas=3), plan("514:514/udp", replicas=2)
    flows = [flow(f"{HOST}-514", f"10.88.0.{last}-514") for last in (2, 3, 4)]
    assert list(stale(three, flows, LOCAL)) == []
    assert list(stale(two, flows, LOCAL)) == flows[2:]


def test_ports_are_those_of_the_instance_that_has_them() -> None:
    made = plan("514:514/udp")
    standby = replace(made, workloads=tuple(replace(each, standby=True) for each in made.workloads))
    assert list(stale(standby, [flow(f"{HOST}-514", f"{HOST}-514")], LOCAL)) == []


@pytest.mark.parametrize(("port", "has"), [("514:514/udp", True), ("514:514", False)])
def test_nothing_is_looked_at_without_a_port_of_udp(port: str, has: bool) -> None:
    assert publishes(plan(port)) is has
    assert not publishes(NetworkPlan())
