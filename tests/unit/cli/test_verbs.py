"""Every verb explains itself."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hostctl.cli.main import VERBS, Verb, main, parser_of
from hostctl.compose.sources import BUILDER_MODULES


@pytest.mark.parametrize("name", dict.fromkeys(verb.name for verb in VERBS if verb.name != "hostd"))
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"hostctl {name}" in said.partition("examples:")[2]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its actions, at all levels."""
    yield parser
    for action in parser._actions:  # argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.name != "hostd"], ids=lambda verb: verb.module)
def test_help_of_every_action_has_examples_of_it(verb: Verb) -> None:
    for parser in parsers(parser_of(verb)):
        examples = parser.format_help().partition("examples:\n")[2]
        assert re.search(rf"^.*\b{parser.prog}( |$)", examples, re.MULTILINE), parser.prog
        assert parser.description, parser.prog


def test_names_are_given_once_but_for_what_hosts_and_builders_call_the_same() -> None:
    names = [verb.name for verb in VERBS]
    assert sorted(name for name in set(names) if names.count(name) > 1) == ["build"]
    builder, host = (verb for verb in VERBS if verb.name == "build")
    assert f"cli/{builder.module.rpartition('.')[2]}.py" in BUILDER_MODULES
    assert (builder.on_host, host.on_host) == (False, True)


def test_build_is_of_containerfiles_where_nothing_composes_releases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hostctl.cli.build" else name)
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    assert "hostctl build -t site:2 ." in capsys.readouterr().out


def test_looking_at_workloads_loads_neither_the_bus_nor_templates() -> None:
    modules = ", ".join(f"hostctl.cli.{name}" for name in ("ps", "logs", "stats", "top", "port", "events", "wait"))
    code = f"import sys, {modules}; print([name for name in ('dbus_next', 'jinja2', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["commit", "cp", "exec", "export", "load", "login", "pull", "rmi", "tag", "unit"])
def test_a_command_that_asks_the_agent_does_not_load_it(command: str) -> None:
    unwanted = ("hostctl.agent.apply", "hostctl.config.host", "hostctl.workload.spec")
    code = f"import sys, hostctl.cli.{command}; print([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_are_there() -> None:
    for verb in VERBS:
        assert importlib.import_module(verb.module).run
