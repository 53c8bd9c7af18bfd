"""No input gives anything but a declaration or a DeclarationError, soon, and printable."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.config.host import HostDeclaration
from hostctl.config.load import DeclarationError, decode_bytes, parse_host, parse_release
from hostctl.config.release import ReleaseDeclaration

HEAD = "version: 1\nhostname: a\n"
SEED = (
    HEAD + "users: {ops: {sudo: true}}\nnetwork: {lan: {match: 'en*', dhcp: true}}\nfiles: {/etc/a: {content: |x}}\n"
    "workloads:\n  site:\n    image: r.example/site:1\n    ports: ['80:80']\n    volumes: ['v:/srv']\n    cpus: 0.5\n"
    "    healthcheck: {exec: ['true'], interval: 10s}\nvolumes: {v: {}}\n"
)


def decide(text: str) -> HostDeclaration | DeclarationError:
    """Return what came of a text as host.yaml, and look at the error that a user would see."""
    try:
        return parse_host(text)
    except DeclarationError as error:
        assert error.problems
        shown = error.render()
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
        shown.encode()
        return error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("---\n...\n", "a mapping"),
        ("a: &a [1]\nb: *a\n", "anchors and aliases"),
        ("a: &a [" + "*a," * 1000 + "]", "anchors and aliases"),
        ("&a {b: *a}", "anchors and aliases"),
        ("!!python/object/apply:os.system [id]", "tags are not allowed"),
        ("hostname: !!binary aGk=", "tags are not allowed"),
        (HEAD + "---\n" + HEAD, "a second document"),
        ("[" * 100_000, "nest"),
        ("{a: " * 100_000, "nest"),
        ("- " * 100_000, "nested deeper"),
        ("? " * 1000, "nested deeper"),
        ("[" + "1," * 200_000 + "]", "more than"),
        ("a" * (1 << 20) + "b", "larger than 1024 KiB"),
        ("é" * (1 << 19) + "é", "larger than 1024 KiB"),
        ('hostname: "\\0"\n', "cannot be stored"),
        ('hostname: "\\ud800"\n', "not YAML"),
        ('hostname: "\\UFFFFFFFF"\n', "not YAML"),
        ("hostname: \ud800\n", "not allowed in YAML"),
        ("a\0b", "not allowed in YAML"),
        ("hostname: 'a\n", "not YAML"),
        ("\tversion: 1\n", "indent with spaces"),
        ("%YAML 9.9\n---\na: 1\n", "not YAML"),
        ("? [a]\n: b\n", "cannot be a key"),
        ("? {a: b}\n: c\n", "cannot be a key"),
        (": a\n", "not YAML"),
        ("\u202ehostname: a\n", "unknown setting"),
        ("hostname: \x85\n", "missing"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_refused_with_a_reason(text: str, words: str) -> None:
    outcome = decide(text)
    assert isinstance(outcome, DeclarationError)
    assert words in outcome.render()


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "".join(f"a{i}: 1\n" for i in range(20_000)),
        HEAD + "a" * 1_000_000 + ": 1\n",
        HEAD + "workloads: {a: {image: '" + "a-" * 400_000 + "'}}\n",
        HEAD + "timezone: " + "a" * 1_000_000 + "\n",
        HEAD + "workloads: {a: {image: r.e/x:1, ports: [" + "'1:1'," * 5_000 + "]}}\n",
        HEAD + "files: {" + ", ".join(f"/etc/{'a/' * 400}{i}: {{content: x}}" for i in range(300)) + "}\n",
    ],
    ids=["unknown settings", "long key", "long image", "long zone", "many ports", "deep files"],
)
def test_costly_texts_are_decided_soon(text: str) -> None:
    start = time.process_time()
    outcome = decide(text)
    assert time.process_time() - start < 5
    if isinstance(outcome, DeclarationError):
        assert len(outcome.render()) < 100_000


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    decide(text)


@settings(max_examples=150, deadline=None)
@given(st.text("[]{}:,-?&*!|>'\"%@`#~<= \n\tab01.\\x", max_size=60))
def test_texts_of_yaml_signs(text: str) -> None:
    decide(HEAD + text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SEED)), st.integers(0, 12), st.text(max_size=6))
def test_a_valid_text_with_a_piece_replaced(start: int, length: int, piece: str) -> None:
    decide(SEED[:start] + piece + SEED[start + length :])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    try:
        outcome: ReleaseDeclaration | str = parse_release(decode_bytes(data, "release.yaml"))
    except DeclarationError as error:
        outcome = error.render()
    assert outcome
