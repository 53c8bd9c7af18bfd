"""Schema and reference pages: derived from the types, documented throughout, and current in ``docs/``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostctl.config.reference import reference
from hostctl.config.schema import KINDS, schema

ROOT = Path(__file__).parents[3]
HOST = """
version: 1
hostname: web-1
network: {lan: {match: "en*", dhcp: true}}
workloads:
  site:
    image: registry.example/site:1
    env: {VERSION: 1.10, FLAG: true}
    ports: ["8080:80"]
    memory: 64M
    cpus: 0.5
    healthcheck: {exec: ["true"], interval: 10s}
volumes: {content: {}}
"""
RELEASE = "{version: 1, name: edge, release: 2026.11, base: {mirror: default}, images: [a.tar], limits: {root: 512M}}"


def broken(document: Any, rule: Any, root: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield where a document breaks a schema: the few keywords that ours uses."""
    if "$ref" in rule:
        yield from broken(document, root["$defs"][rule["$ref"].removeprefix("#/$defs/")], root, path)
    if "anyOf" in rule and all(list(broken(document, each, root)) for each in rule["anyOf"]):
        yield path
    if document not in rule.get("enum", [document]) or document != rule.get("const", document):
        yield path
    kinds = {str: ["string"], bool: ["boolean"], int: ["integer", "number"], float: ["number"], type(None): ["null"]}
    kinds |= {list: ["array"], dict: ["object"]}
    allowed = rule.get("type", kinds[type(document)])
    if not set(kinds[type(document)]) & set([allowed] if isinstance(allowed, str) else allowed):
        yield path
    if isinstance(document, str) and "pattern" in rule and not re.search(rule["pattern"], document):
        yield path
    if isinstance(document, list):
        for index, item in enumerate(document):
            yield from broken(item, rule.get("items", {}), root, f"{path}[{index}]")
    if isinstance(document, dict):
        yield from (f"{path}.{name}" for name in rule.get("required", []) if name not in document)
        for key, item in document.items():
            yield from broken(key, rule.get("propertyNames", {}), root, f"{path}.{key}")
            inner = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
            yield from [f"{path}.{key}"] if inner is False else broken(item, inner, root, f"{path}.{key}")


@pytest.mark.parametrize(("kind", "text"), [("host", HOST), ("release", RELEASE)])
def test_a_valid_declaration_fits_its_schema(kind: str, text: str) -> None:
    rule = json.loads(json.dumps(schema(kind)))
    assert list(broken(yaml.safe_load(text), rule, rule)) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{version: 1}", ".hostname"),
        ("{version: 2, hostname: a}", ".version"),
        ("{version: 1, hostname: A}", ".hostname"),
        ("{version: 1, hostname: a, volumes: {A: {}}}", ".volumes.A"),
        ("{version: 1, hostname: a, workloads: {a: {image: 'r.e/x:1', memroy: 1}}}", ".workloads.a.memroy"),
        ("{version: 1, hostname: a, workloads: {a: {image: 'r.e/x:1', pids: a}}}", ".workloads.a.pids"),
        ("{version: 1, hostname: a, workloads: {a: {image: 'r.e/x:1', memory: 1x}}}", ".workloads.a.memory"),
    ],
)
def test_the_schema_finds_mistakes(text: str, where: str) -> None:
    rule = json.loads(json.dumps(schema("host")))
    assert list(broken(yaml.safe_load(text), rule, rule)) == [where]


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_and_type_is_documented(kind: str) -> None:
    rule: Any = schema(kind)
    for name, definition in [("", rule), *rule["$defs"].items()]:
        assert definition["description"], name
        for field, described in definition.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("kind", KINDS)
def test_reference_pages_are_current(kind: str) -> None:
    page = ROOT / "docs/reference" / f"{kind}.md"
    assert page.read_text() == reference(kind), f"run: hostctl config reference {kind} > {page.relative_to(ROOT)}"
