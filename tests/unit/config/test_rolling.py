"""What a workload may not have that is to be started beside the running one; each is refused with its place."""

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
FIRST = "    update: {order: start-first}\n"
CHECK = "    healthcheck: {http: 'http://localhost/'}\n"


def parse(*lines: str, update: str = FIRST, check: str = CHECK) -> HostDeclaration:
    return parse_host(HEAD + update + check + "".join(f"    {line}\n" for line in lines), "host.yaml")


def problem(*lines: str, update: str = FIRST, check: str = CHECK) -> Problem:
    with pytest.raises(DeclarationError) as caught:
        parse(*lines, update=update, check=check)
    (only,) = caught.value.problems
    return only


def test_stop_first_is_what_is_done_without_a_word() -> None:
    plain = parse(update="").workloads[Name("web")]
    assert (plain.update.order, plain.rolls, plain.auto_update) == ("stop-first", False, False)
    first = parse("ports: ['8080:80']", "volumes: ['data:/data:ro', '/var/lib/hostctl/binds/x:/x']")
    assert first.workloads[Name("web")].rolls
    assert first.workloads[Name("web")].update.drain == 10.0
    assert parse("notify: true", check="").workloads[Name("web")].rolls


@pytest.mark.parametrize(
    ("line", "path", "said"),
    [
        ("volumes: ['data:/data']", "workloads.web.volumes[0]", "data:/data:ro is possible"),
        ("volumes: ['/var/lib/hostctl/binds/x:/x:rw']", "workloads.web.volumes[0]", "binds/x:/x:ro is possible"),
        ("networks: {own: {ipv4: 10.90.1.7}}", "workloads.web.networks.own.ipv4", "several containers would have it"),
        ("networks: [lan]", "workloads.web.networks", "only bridges are possible"),
        ("network: host", "workloads.web.network", "only private is possible"),
        ("network: none", "workloads.web.network", "only private is possible"),
        ("ports: ['53:53/udp']", "workloads.web.ports[0]", "only tcp is possible"),
    ],
)
def test_what_only_one_can_have_is_refused(line: str, path: str, said: str) -> None:
    found = problem(line)
    assert found.path == path
    assert said in found.message
    assert found.line == 10


def test_a_socket_of_the_host_is_for_one_only() -> None:
    found = problem("init: false", "sockets: [80]")
    assert found.path == "workloads.web.sockets"


def test_somebody_must_tell_when_the_new_one_is_ready() -> None:
    found = problem(check="")
    assert (found.path, found.line) == ("workloads.web.update.order", 8)
    assert "needs a healthcheck or notify" in found.message


def test_a_job_is_not_started_first() -> None:
    assert problem("type: job", check="").path == "workloads.web.update.order"


def test_draining_is_bounded() -> None:
    found = problem(update="    update: {order: start-first, drain: 11m}\n")
    assert found.path == "workloads.web.update.drain"
    assert parse(update="    update: {order: start-first, drain: 1s}\n").workloads[Name("web")].update.drain == 1.0


def test_what_is_named_by_its_digest_is_never_renewed() -> None:
    text = HEAD.replace("web:1", "web@sha256:" + "0" * 64) + "    auto_update: true\n"
    with pytest.raises(DeclarationError) as caught:
        parse_host(text, "host.yaml")
    assert [each.path for each in caught.value.problems] == ["workloads.web.auto_update"]


def test_what_asks_no_registry_is_never_renewed() -> None:
    found = problem("auto_update: true", "pull_policy: never")
    assert (found.path, found.line) == ("workloads.web.auto_update", 10)
    assert parse("auto_update: true", "pull_policy: always").workloads[Name("web")].auto_update
