"""Networks as the plan of a generation has them, in both of its formats."""

from __future__ import annotations

import json

from hostctl.agent import inspection, network_view
from hostctl.agent.network_view import Place
from hostctl.network.allocate import Wanted, allocate
from hostctl.network.document import encode

NEW = {
    "format": 2,
    "networks": {
        "back": {"subnet": "10.89.1.0/24", "gateway": None, "driver": "bridge", "internal": True, "mtu": 1400},
        "front": {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1", "subnet6": "fd00::/64", "driver": "bridge"},
    },
    "workloads": {
        "web": {
            "attachments": [
                {"network": "front", "address": "10.89.0.2", "address6": "fd00::2", "aliases": ["www"]},
                {"network": "back", "address": "10.89.1.2", "address6": None, "aliases": []},
            ]
        }
    },
}


def test_the_one_network_of_a_plan_as_it_is_written() -> None:
    plan = allocate([Wanted(name="web", userns_start=1 << 28), Wanted(name="app", userns_start=1 << 29)])
    (found,) = network_view.networks(json.loads(encode(plan)))
    [network] = plan.networks
    assert (found.name, found.subnet, found.gateway) == ("default", str(network.subnet), str(network.gateway))
    assert {name: place.address for name, place in found.workloads.items()} == {
        each.name: str(each.attachments[0].address) for each in plan.workloads
    }
    assert network_view.networks({}) == ()


def test_several_networks() -> None:
    back, front = network_view.networks(NEW)
    assert (back.internal, back.mtu, back.gateway) == (True, 1400, "")
    assert front.workloads == {"web": Place(address="10.89.0.2", address6="fd00::2", aliases=("www",))}


def test_a_workload_is_inspected_with_all_of_its_networks() -> None:
    settings = inspection.network_settings("web", network_view.networks(NEW))
    assert settings["IPAddress"] == "10.89.1.2"
    assert settings["Networks"] == {
        "back": {"IPAddress": "10.89.1.2", "GlobalIPv6Address": "", "Gateway": "", "Aliases": []},
        "front": {"IPAddress": "10.89.0.2", "GlobalIPv6Address": "fd00::2", "Gateway": "10.89.0.1", "Aliases": ["www"]},
    }
    assert inspection.network_settings("app", network_view.networks(NEW)) == {
        "IPAddress": "",
        "Gateway": "",
        "Networks": {},
    }
