"""What a workload may not have of which several containers run; each is refused with its place."""

from __future__ import annotations

import pytest

from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.config.names import Name
from hostctl.config.problems import DeclarationError, Problem

HEAD = """version: 1
hostname: a
volumes: {data: {}}
networks: {lan: {driver: macvlan, parent: eth1, subnet: 192.0.2.0/24, gateway: 192.0.2.1}, own: {subnet: 10.90.1.0/24}}
workloads:
  web:
    image: registry.example/web:1
"""


def parse(*lines: str, replicas: str = "3") -> HostDeclaration:
    return parse_host(HEAD + "".join(f"    {line}\n" for line in (f"replicas: {replicas}", *lines)), "host.yaml")


def problem(*lines: str, replicas: str = "3") -> Problem:
    with pytest.raises(DeclarationError) as caught:
        parse(*lines, replicas=replicas)
    (only,) = caught.value.problems
    return only


def test_one_is_what_there_is_without_a_word() -> None:
    assert parse_host(HEAD, "x").workloads[Name("web")].replicas == 1
    assert parse("hostname: www", "networks: [lan]", replicas="1")
    assert parse("update: {order: start-first}", "notify: true", replicas="1")


def test_what_several_can_share_is_possible() -> None:
    made = parse("ports: ['8080:80', '53:53/udp']", "volumes: ['data:/data']", "networks: {own: {aliases: [www]}}")
    assert made.workloads[Name("web")].replicas == 3
    assert parse("network: none").workloads[Name("web")].replicas == 3


@pytest.mark.parametrize(
    ("line", "path", "said"),
    [
        ("update: {order: start-first}", "workloads.web.update.order", "only stop-first is possible"),
        ("networks: {own: {ipv4: 10.90.1.7}}", "workloads.web.networks.own.ipv4", "several containers would have it"),
        ("networks: [lan]", "workloads.web.networks", "only bridges are possible"),
        ("network: host", "workloads.web.network", "the same ports"),
        ("hostname: www", "workloads.web.hostname", "a name of its own"),
    ],
)
def test_what_only_one_can_have_is_refused(line: str, path: str, said: str) -> None:
    found = problem(line, "healthcheck: {http: 'http://localhost/'}")
    assert found.path == path
    assert said in found.message
    assert found.line == 9


@pytest.mark.parametrize("count", ["0", "101", "-1"])
def test_their_number_is_bounded(count: str) -> None:
    found = problem(replicas=count)
    assert (found.path, found.line, found.message) == ("workloads.web.replicas", 8, "must be from 1 to 100")


def test_jobs_and_sockets_of_the_host_are_for_one() -> None:
    assert problem("type: job").path == "workloads.web.replicas"
    assert problem("init: false", "sockets: [80]").path == "workloads.web.sockets"


def test_the_rules_of_the_packet_filter_are_bounded() -> None:
    ports = ", ".join(f"'{port}:80'" for port in range(8000, 8011))
    assert parse(f"ports: [{ports}]", replicas="90")
    assert problem(f"ports: [{ports}]", replicas="100").path == "workloads.web.ports"
    assert parse("ports: ['8000-8999:8000-8999']", replicas="100")
