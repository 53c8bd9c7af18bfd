"""Two instances of a workload: one address each, one name and one published port, which move in one transaction."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.network import apply as network_pass
from hostctl.network import declared
from hostctl.network.allocate import Pools
from hostctl.network.document import decode, encode
from hostctl.network.model import NetworkCollisionError, NetworkPlan, NetworkPlanError
from hostctl.network.names import tables
from hostctl.network.nftables import ruleset
from hostctl.network.work import alias, decide, host_side

TEXT = """
version: 1
hostname: a
workloads:
  db: {image: 'r.example/db:1'}
  web: {image: 'r.example/web:1', ports: ['8080:80'], notify: true, update: {order: start-first}}
"""
RANGES = {"db": 0, "web": 1}


def plan(
    letter: str, former: NetworkPlan | None = None, leaving: tuple[str, ...] = (), text: str = TEXT
) -> NetworkPlan:
    return declared.plan(parse_host(text, "x"), RANGES, former, Pools(), {"web": letter}, leaving)


def targets(made: NetworkPlan) -> list[str]:
    commands: list[Any] = json.loads(ruleset(made))["nftables"][1:]
    rules = [command["add"]["rule"] for command in commands if "rule" in command.get("add", {})]
    return [rule["expr"][-1]["dnat"]["addr"] for rule in rules if rule["chain"] == "published"]


def addresses(made: NetworkPlan) -> dict[str, str]:
    return {each.key: str(each.attachments[0].address) for each in made.workloads}


def test_the_new_instance_gets_an_address_that_nobody_has_and_the_old_one_keeps_its_own() -> None:
    first = plan("a")
    second = plan("b", first, ("web.a",))
    assert addresses(first) == {"db": "10.88.0.2", "web.a": "10.88.0.3"}
    assert addresses(second) == {"db": "10.88.0.2", "web.b": "10.88.0.4"}
    both = declared.during(second, first, ["web.a"], moved=False)
    assert addresses(both) == {"db": "10.88.0.2", "web.a": "10.88.0.3", "web.b": "10.88.0.4"}
    assert decode(encode(both)) == both
    assert {each.userns_start for each in both.workloads if each.name == "web"} == {first.workloads[1].userns_start}


def test_nobody_is_given_the_address_of_an_instance_that_is_about_to_leave() -> None:
    first = plan("a")
    static = TEXT.replace("db:1'", "db:1', networks: {default: {ipv4: 10.88.0.3}}")
    assert addresses(plan("b", first, text=static))["db"] == "10.88.0.3"
    with pytest.raises(NetworkCollisionError):
        plan("b", first, ("web.a",), static)


def test_ports_and_names_move_at_once_and_back() -> None:
    first = plan("a")
    before = declared.during(plan("b", first, ("web.a",)), first, ["web.a"], moved=False)
    assert targets(before) == ["10.88.0.3"]
    assert "10.88.0.3  web\n" in tables(before)["default"]
    assert "10.88.0.4  web.b\n" in tables(before)["default"]
    after = declared.moved(before, to=["web.b"])
    assert targets(after) == ["10.88.0.4"]
    assert "10.88.0.4  web\n" in tables(after)["default"]
    assert "10.88.0.3  web.a\n" in tables(after)["default"]
    assert after == declared.during(plan("b", first, ("web.a",)), first, ["web.a"], moved=True)
    assert declared.moved(after, to=["web.a"]) == before


def test_moving_touches_no_link_or_namespace() -> None:
    first = plan("a")
    before = declared.during(plan("b", first, ("web.a",)), first, ["web.a"], moved=False)
    after = declared.moved(before, to=["web.b"])
    assert [alias(before, each, 0) for each in before.workloads] == [alias(after, each, 0) for each in after.workloads]
    assert host_side("web.a", "default") != host_side("web.b", "default")
    work = decide(first, (), pinned=frozenset({"db", "web.a", "web.b"}), whole=frozenset({"db", "web.a", "web.b"}))
    assert "web.b" in work.unpin


def test_what_holds_while_workloads_change_goes_before_the_generations_plan(tmp_path: object) -> None:
    layout = HostLayout(root=tmp_path)  # type: ignore[arg-type]  # a path
    (layout.generations / "1").mkdir(parents=True)
    layout.current.symlink_to("generations/1")
    first = plan("a")
    (layout.current / "network.json").write_bytes(encode(first))
    assert network_pass.in_force(layout) == first
    layout.runtime.mkdir(parents=True)
    both = declared.during(plan("b", first, ("web.a",)), first, ["web.a"], moved=False)
    layout.changing_network.write_bytes(encode(both))
    assert network_pass.in_force(layout) == both


def test_a_damaged_plan_of_instances_is_refused() -> None:
    first = plan("a")
    both = declared.during(plan("b", first, ("web.a",)), first, ["web.a"], moved=False)
    two = replace(both, workloads=tuple(replace(each, standby=False) for each in both.workloads))
    with pytest.raises(NetworkPlanError):
        decode(encode(two))
    document = json.loads(encode(both))
    for key in ("web.c", "web.", "web.a.b"):
        broken = {**document, "workloads": {key: document["workloads"]["web.a"]}}
        with pytest.raises(NetworkPlanError):
            decode(json.dumps(broken).encode())
    with pytest.raises(NetworkPlanError):
        decode(json.dumps({**document, "networks": {"default.a": document["networks"]["default"]}}).encode())
