"""Replicas of a workload: an address each, one name, and chains of the packet filter that lead to those that work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.network import balance, declared, nftables
from hostctl.network.allocate import Pools
from hostctl.network.document import decode, encode
from hostctl.network.model import NetworkPlan, NetworkPlanError
from hostctl.network.names import tables
from hostctl.network.work import decide

TEXT = """
version: 1
hostname: a
workloads:
  db: {image: 'r.example/db:1'}
  web: {image: 'r.example/web:1', ports: ['8080:80', '53:53/udp'], replicas: 3}
"""
RANGES = {"db": 0, "web": 1, **{f"web.{number}": number for number in range(2, 101)}}


def plan(text: str = TEXT, former: NetworkPlan | None = None) -> NetworkPlan:
    return declared.plan(parse_host(text, "x"), RANGES, former, Pools())


def scaled(count: int) -> str:
    return TEXT.replace("replicas: 3", f"replicas: {count}")


def addresses(made: NetworkPlan) -> dict[str, str]:
    return {each.key: str(each.attachments[0].address) for each in made.workloads}


def commands(document: bytes) -> list[Any]:
    return list(json.loads(document)["nftables"][1:])


def rules(document: bytes) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for command in commands(document):
        if "rule" in command.get("add", {}):
            rule = command["add"]["rule"]
            found.setdefault(rule["chain"], []).append(rule["expr"])
    return found


def test_each_has_an_address_and_a_range_and_keeps_them_when_others_come_and_go() -> None:
    first = plan()
    assert addresses(first) == {"db": "10.88.0.2", "web": "10.88.0.3", "web.2": "10.88.0.4", "web.3": "10.88.0.5"}
    assert len({each.userns_start for each in first.workloads}) == 4
    assert decode(encode(first)) == first
    more = plan(scaled(12), first)
    assert {key: more for key, more in addresses(more).items() if key in addresses(first)} == addresses(first)
    fewer = plan(scaled(2), more)
    assert addresses(fewer) == {key: address for key, address in addresses(first).items() if key != "web.3"}
    one = plan(scaled(1), fewer)
    assert addresses(one) == {"db": "10.88.0.2", "web": "10.88.0.3"}


def test_a_change_of_their_number_connects_only_the_new_ones() -> None:
    keys = frozenset({"db", "web"})
    work = decide(plan(), (), pinned=keys, whole=keys, nested={})
    assert {"web.2", "web.3"} <= {each.key for each in work.connect}
    gone = decide(plan(scaled(2)), (), pinned=frozenset(RANGES), whole=frozenset(RANGES))
    assert "web.3" in gone.unpin


def test_the_name_leads_to_all_and_each_has_its_own() -> None:
    table = tables(plan())["default"]
    assert "web 10.88.0.3  web,web.1\n" in table
    assert "web.2 10.88.0.4  web,web.2\n" in table
    assert "web.3 10.88.0.5  web,web.3\n" in table
    assert "db 10.88.0.2  db\n" in table
    assert "web 10.88.0.3  web\n" in tables(plan(scaled(1)))["default"]


def test_published_ports_lead_to_the_chains_of_those_that_serve() -> None:
    made = rules(nftables.ruleset(plan(), ["web.2"]))
    assert [rule[-1] for rule in made["published"]] == [{"jump": {"target": "replicas-web"}}] * 2
    *tried, silent = made["replicas-web"]
    guesses = [rule[0]["vmap"] for rule in tried[:-3]]
    assert [(guess["key"]["numgen"]["mode"], guess["key"]["numgen"]["mod"]) for guess in guesses] == [
        ("inc", 3),
        *[("random", 3)] * nftables.GUESSES,
    ]
    chains = [{"jump": {"target": f"replica-web.{number}"}} for number in (1, 2, 3)]
    assert all([where for _, where in guess["data"]["set"]] == chains for guess in guesses)
    assert [rule[0] for rule in tried[-3:]] == chains  # at last each is tried
    assert (silent[0]["match"]["right"], silent[-1]) == ("udp", {"drop": None})
    assert [rule[-1]["dnat"] for rule in made["replica-web.2"]] == [
        {"family": "ip", "addr": "10.88.0.4", "port": 80},
        {"family": "ip", "addr": "10.88.0.4", "port": 53},
    ]
    assert not {"replica-web.1", "replica-web.3"} & set(made)
    names = [command["add"]["chain"]["name"] for command in commands(nftables.ruleset(plan())) if _is_chain(command)]
    assert {"replica-web.1", "replica-web.2", "replica-web.3", "replicas-web"} <= set(names)


def _is_chain(command: Any) -> bool:  # noqa: ANN401 - one of nft's
    return "chain" in command.get("add", {})


def test_one_container_needs_no_chain() -> None:
    made = rules(nftables.ruleset(plan(scaled(1))))
    assert {next(iter(rule[-1])) for rule in made["published"]} == {"dnat"}
    assert balance.balanced(plan(scaled(1))) == ()
    assert balance.balanced(plan(TEXT.replace("ports: ['8080:80', '53:53/udp'], ", ""))) == ()


def test_a_replica_is_put_in_by_a_transaction_about_itself_alone() -> None:
    made = plan()
    (third,) = [each for each in made.workloads if each.key == "web.3"]
    flush, *added = commands(nftables.serve(made, third))
    assert flush["flush"]["chain"]["name"] == "replica-web.3"
    assert {command["add"]["rule"]["chain"] for command in added} == {"replica-web.3"}
    assert len(added) == 2
    connected = declared.connection(made, third)
    assert (connected.chain, connected.serve) == ("replica-web.3", nftables.serve(made, third))
    assert declared.connection(made, made.workloads[0]).chain == ""
    mended = commands(nftables.adjust(made, ["web.3"], ["web"]))
    assert [each["flush"]["chain"]["name"] for each in mended if "flush" in each] == ["replica-web.1", "replica-web.3"]
    assert {each["add"]["rule"]["chain"] for each in mended if "add" in each} == {"replica-web.3"}


def test_whoever_runs_and_is_not_found_ill_serves(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    bundle = layout.current / "bundles/web"
    bundle.mkdir(parents=True)
    assert balance.serving(layout, ["web", "web.2"]) == frozenset()
    pid = layout.runtime / "pids/web"
    pid.parent.mkdir(parents=True)
    pid.write_text("1")
    assert balance.serving(layout, ["web", "web.2"]) == {"web"}
    (bundle / "health.check").write_text("")
    assert balance.serving(layout, ["web"]) == frozenset()
    said = layout.runtime / "health/web"
    said.parent.mkdir()
    for text, serves in (
        (f"healthy {pid.stat().st_mtime_ns}", True),
        (f"unhealthy {pid.stat().st_mtime_ns}", False),
        ("healthy 1", False),  # of a former run
        ("", False),
    ):
        said.write_text(text)
        assert (balance.serving(layout, ["web"]) == {"web"}) is serves


def test_a_damaged_plan_of_replicas_is_refused() -> None:
    made = plan()
    for broken in (
        replace(made, workloads=tuple(each for each in made.workloads if each.key != "web")),
        replace(made, workloads=tuple(replace(each, standby=bool(each.instance)) for each in made.workloads)),
        replace(made, workloads=tuple(replace(e, ports=()) if e.key == "web.2" else e for e in made.workloads)),
        replace(made, workloads=tuple(replace(each, userns_start=1 << 28) for each in made.workloads)),
    ):
        with pytest.raises(NetworkPlanError):
            decode(encode(broken))
