"""Workloads that are run without being declared."""

from __future__ import annotations

import argparse
import json

import pytest

from hostctl.agent import transient
from hostctl.agent.plan import plan
from hostctl.agent.transient import RunNotAllowedError, RunRequestError
from hostctl.cli import run as run_verb
from hostctl.config.load import parse_host
from hostctl.config.problems import DeclarationError
from hostctl.errors import UsageError

HOST = """\
version: 1
hostname: web-1
allow_run: true
users: {ops: {ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMYGpFsHVBJWdxwXL5dcp5PrF1J6ZP1oPlDMX1A5UyGE ops"]}}
workloads: {web: {image: "r.example/web:1", env: {NO: "no"}, cpus: 0.5, ports: ["8080:80"], command: [a, "b c"]}}
volumes: {content: {}}
"""
IMAGE = json.dumps({"image": "r.example/tool:1", "args": ["report"], "restart": "no"})


def test_one_is_added_and_removed_and_nothing_else_changes() -> None:
    before = parse_host(HOST, "host.yaml")
    text = transient.add(HOST, "run-x", IMAGE)
    after = parse_host(text, "host.yaml")
    assert [str(action) for action in plan(before, after)] == ["+ workload run-x: declared"]
    assert transient.transients(after) == ("run-x",)
    assert parse_host(transient.remove(text, "run-x"), "host.yaml") == before


def test_only_where_the_declaration_allows_it() -> None:
    with pytest.raises(RunNotAllowedError):
        transient.add(HOST.replace("allow_run: true", "allow_run: false"), "run-x", IMAGE)
    off = parse_host(HOST.replace("allow_run: true", ""), "host.yaml")
    assert [action.subject for action in plan(off, parse_host(HOST, "host.yaml"))] == ["allow_run"]


@pytest.mark.parametrize(
    "request_text",
    ["", "[]", "null", "{}", '{"image": 1, "capabilities": ["CAP_SYS_ADMIN"]}', '{"image": "a", "required": true}'],
)
def test_what_a_request_may_not_say_is_refused(request_text: str) -> None:
    with pytest.raises((RunRequestError, DeclarationError)):
        transient.add(HOST, "run-x", request_text)


@pytest.mark.parametrize(
    "wanted",
    [
        {"image": "NOT AN IMAGE"},
        {"image": "r.example/x:1", "volumes": ["undeclared:/srv"]},
        {"image": "r.example/x:1", "user": "root"},
        {"image": "r.example/x:1", "pids": "many"},
    ],
)
def test_mistakes_are_those_of_a_declaration(wanted: dict[str, object]) -> None:
    with pytest.raises(DeclarationError):
        transient.add(HOST, "run-x", json.dumps(wanted))


def test_declared_ones_are_neither_replaced_nor_removed() -> None:
    taken = transient.add(HOST, "run-x", IMAGE)
    with pytest.raises(RunRequestError):
        transient.add(taken, "run-x", IMAGE)
    for name in ("web", "run-y"):
        with pytest.raises(RunRequestError):
            transient.remove(HOST, name)


def test_names() -> None:
    assert transient.full_name("x") == transient.full_name("run-x") == "run-x"
    assert transient.full_name("") != transient.full_name("")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run_verb.configure(parser)
    return parser.parse_args(words)


def test_options_are_those_of_docker() -> None:
    words = ("-d", "-e", "A=1", "-p", "8080:80", "-v", "content:/srv", "--memory", "64M", "r.example/x:1", "ls", "-l")
    assert run_verb.settings(parsed(*words)) == {
        "image": "r.example/x:1",
        "args": ["ls", "-l"],
        "env": {"A": "1"},
        "ports": ["8080:80"],
        "volumes": ["content:/srv"],
        "memory": "64M",
        "restart": "no",
    }
    for wrong in (("-d", "--rm", "x"), ("--restart", "always", "x"), ("-e", "A", "x")):
        with pytest.raises(UsageError):
            run_verb.settings(parsed(*wrong))
