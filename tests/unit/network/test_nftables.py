"""The packet filter's transaction: whole, ours alone, and understood by nft."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from hostctl.config.references import PortMapping
from hostctl.network.allocate import Wanted, WantedAttachment, WantedNetwork, allocate
from hostctl.network.model import NetworkPlan
from hostctl.network.nftables import ruleset


def plan(*ports: str) -> NetworkPlan:
    mappings = tuple(PortMapping.parse(port) for port in ports)
    return allocate([Wanted(name="site", userns_start=0x10000000, ports=mappings)])


def commands(made: NetworkPlan) -> list[dict[str, dict[str, dict[str, object]]]]:
    document = json.loads(ruleset(made))["nftables"]
    assert document[0] == {"metainfo": {"json_schema_version": 1}}
    return list(document[1:])


def rules(made: NetworkPlan, chain: str) -> list[object]:
    added = [command["add"].get("rule", {}) for command in commands(made) if "add" in command]
    return [rule["expr"] for rule in added if rule.get("chain") == chain]


def test_the_table_is_replaced_in_one_transaction_and_no_other_is_named() -> None:
    made = commands(plan("8080:80"))
    table = {"table": {"family": "inet", "name": "hostctl"}}
    assert made[:3] == [{"add": table}, {"delete": table}, {"add": table}]
    for command in made[3:]:
        [thing] = command["add"].values()
        assert (thing["family"], thing["table"]) == ("inet", "hostctl")


def test_without_workloads_the_table_is_removed() -> None:
    assert [*commands(NetworkPlan())[-1]] == ["delete"]


def test_a_port_is_published_at_its_address_or_at_all() -> None:
    anywhere, loopback = rules(plan("8080:80", "127.0.0.1:53:5353/udp"), "published")
    to = {"dnat": {"family": "ip", "addr": "10.88.0.2", "port": 80}}
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}}
    assert anywhere == [{"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}, port, to]
    assert isinstance(loopback, list)
    assert loopback[0]["match"]["right"] == "127.0.0.1"
    assert loopback[1]["match"]["left"] == {"payload": {"protocol": "udp", "field": "dport"}}
    assert rules(plan("0.0.0.0:8080:80"), "published") == [anywhere]


def test_who_may_not_ask_the_name_server_is_told_by_as_many_rules_for_one_network_as_for_many() -> None:
    def dropped(count: int) -> list[object]:
        networks = [WantedNetwork(name=f"n{number}", subnet6="pool") for number in range(count)]
        on = tuple(WantedAttachment(network=each.name) for each in networks)
        made = allocate([Wanted(name="site", userns_start=0x10000000, attachments=on)], networks=networks)
        return [rule for rule in rules(made, "to-host") if '"lo"' in json.dumps(rule)]

    assert len(dropped(1)) == len(dropped(20)) == 4
    assert '"10.89.19.1"' in json.dumps(dropped(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nft_takes_it_and_other_tables_stay() -> None:
    """In a network namespace of its own: applied over itself, read back, removed."""
    words = [
        "unshare",
        "-n",
        "sh",
        "-ec",
        'nft add table ip other; for f in "$@"; do nft -j -f "$f"; nft list tables; done',
    ]
    files = []
    for made in (plan("8080:80"), plan("8080:80", "127.0.0.1:53:53/udp"), NetworkPlan(), NetworkPlan()):
        descriptor = os.memfd_create("ruleset")
        os.write(descriptor, ruleset(made))
        files.append(descriptor)
    names = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in files]
    done = subprocess.run([*words, "sh", *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    both = "table ip other\ntable inet hostctl\n"
    assert done.stdout == both + both + "table ip other\n" * 2
