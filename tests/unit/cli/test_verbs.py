"""Every verb explains itself."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from hostctl.cli.main import VERBS, main


@pytest.mark.parametrize("name", [verb.name for verb in VERBS if verb.name != "hostd"])
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"hostctl {name}" in said.partition("examples:")[2]


def test_names_are_given_once() -> None:
    names = [verb.name for verb in VERBS]
    assert len(names) == len(set(names))


def test_looking_at_workloads_loads_neither_the_bus_nor_templates() -> None:
    modules = ", ".join(f"hostctl.cli.{name}" for name in ("ps", "logs", "stats", "top", "port", "events", "wait"))
    code = f"import sys, {modules}; print([name for name in ('dbus_next', 'jinja2', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_modules_are_there() -> None:
    for verb in VERBS:
        assert importlib.import_module(verb.module).run
