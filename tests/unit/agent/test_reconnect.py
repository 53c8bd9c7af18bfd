"""Other networks for a workload that was run: what becomes of the declaration, and what is refused."""

from __future__ import annotations

import json

import pytest

from hostctl.agent import reconnect, transient
from hostctl.agent.plan import plan
from hostctl.agent.reconnect import ConnectError
from hostctl.agent.transient import RunRequestError
from hostctl.config.load import parse_host
from hostctl.config.networks import attachments
from hostctl.config.problems import DeclarationError

HOST = """\
version: 1
hostname: web-1
allow_run: true
networks:
  front: {subnet: 10.90.1.0/24}
  back: {internal: true}
  lan: {driver: macvlan, parent: enp1s0, subnet: 192.168.1.0/24}
workloads:
  web: {image: "r.example/web:1", networks: {front: {aliases: [www]}, back: {}}}
  plain: {image: "r.example/web:1"}
"""


def with_one(**settings: object) -> str:
    """Return the declaration with workload run-x."""
    return transient.add(HOST, "run-x", json.dumps({"image": "r.example/tool:1", **settings}))


def on(text: str) -> dict[str, tuple[str, ...]]:
    """Return the networks of run-x, with its aliases."""
    (workload,) = [each for name, each in parse_host(text, "x").workloads.items() if name == "run-x"]
    return {name: tuple(map(str, place.aliases)) for name, place in attachments(workload).items()}


def test_networks_are_added_at_the_end_and_nothing_else_changes() -> None:
    text = with_one()
    first = reconnect.connect(text, "back", "x", "{}")
    assert (on(first.text), first.workload, first.renames) == ({"default": (), "back": ()}, "run-x", False)
    changes = plan(parse_host(text, "x"), parse_host(first.text, "x"))
    assert [(action.kind, action.subject) for action in changes] == [("change", "run-x")]
    second = reconnect.connect(first.text, "front", "run-x", '{"aliases": ["sql"], "ipv4": "10.90.1.7", "ipv6": ""}')
    assert on(second.text) == {"default": (), "back": (), "front": ("sql",)}
    third = reconnect.disconnect(second.text, "back", "x")
    assert (on(third.text), third.renames) == ({"default": (), "front": ("sql",)}, False)
    assert reconnect.disconnect(third.text, "default", "x").renames is True
    assert "10.90.1.7" in third.text


def test_a_way_out_is_where_names_are_asked_for() -> None:
    inner = reconnect.disconnect(reconnect.connect(with_one(), "back", "x", "{}").text, "default", "x")
    assert inner.renames is True
    assert reconnect.connect(inner.text, "front", "x", "{}").renames is True


@pytest.mark.parametrize(
    ("network", "more", "said"),
    [
        ("nope", {}, "no network 'nope'"),
        ("default", {}, "is on network default already"),
        ("lan", {}, "is macvlan"),
        ("front", {"network": "host"}, "network: host"),
        ("front", {"network": "none"}, "network: none"),
    ],
)
def test_what_cannot_be_connected_is_said(network: str, more: dict[str, object], said: str) -> None:
    with pytest.raises(ConnectError, match=said) as caught:
        reconnect.connect(with_one(**more), network, "x", "{}")
    assert caught.value.exit_code == 2


def test_what_cannot_be_disconnected_is_said() -> None:
    with pytest.raises(ConnectError, match="only network"):
        reconnect.disconnect(with_one(), "default", "x")
    with pytest.raises(ConnectError, match="is not on network back"):
        reconnect.disconnect(with_one(), "back", "x")
    with pytest.raises(RunRequestError, match="no workload"):
        reconnect.disconnect(with_one(), "back", "nope")


@pytest.mark.parametrize("request_text", ["", "[]", "3", "null", '{"mtu": 3}'])
def test_a_request_that_is_none_is_refused(request_text: str) -> None:
    with pytest.raises(ConnectError):
        reconnect.connect(with_one(), "back", "x", request_text)


@pytest.mark.parametrize(
    "settings", [{"ipv4": "1.2.3"}, {"ipv4": "10.90.1.1"}, {"ipv6": "fd00::7"}, {"aliases": "A B"}]
)
def test_mistakes_are_those_of_a_declaration(settings: dict[str, object]) -> None:
    with pytest.raises(DeclarationError):
        reconnect.connect(with_one(), "front", "x", json.dumps(settings))


def test_of_a_declared_one_the_line_to_write_is_said() -> None:
    with pytest.raises(RunRequestError) as caught:
        reconnect.connect(HOST, "back", "plain", "{}")
    assert caught.value.hint == "in host.yaml: workloads.plain.networks: [default, back]"
    with pytest.raises(RunRequestError) as caught:
        reconnect.disconnect(HOST, "back", "web")
    line = caught.value.hint.removeprefix("in host.yaml: workloads.web.networks: ")
    changed = HOST.replace("{front: {aliases: [www]}, back: {}}", line)
    assert [action.subject for action in plan(parse_host(HOST, "x"), parse_host(changed, "x"))] == ["web"]
