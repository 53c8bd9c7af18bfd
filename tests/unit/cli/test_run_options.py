"""Docker's options of `run` as settings of host.yaml, and what to do where there is none."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostctl.agent import transient
from hostctl.cli import create, run, run_options
from hostctl.config.load import parse_host
from hostctl.errors import UsageError

HOST = "version: 1\nhostname: a\nallow_run: true\nnetworks: {back: {}, front: {}}\nvolumes: {content: {}}\n"


def parsed(*words: str) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser()
    run.configure(parser)
    return parser.parse_args(words)


def settings(*words: str) -> dict[str, object]:
    """Return the settings, with one variable in the environment."""
    return run_options.settings(parsed(*words), {"HERE": "home"})


def test_options_are_those_of_docker() -> None:
    words = ("-d", "-e", "A=1", "-p", "8080:80", "-v", "content:/srv", "--memory", "64M", "r.example/x:1", "ls", "-l")
    assert settings(*words) == {
        "image": "r.example/x:1",
        "args": ["ls", "-l"],
        "env": {"A": "1"},
        "ports": ["8080:80"],
        "volumes": ["content:/srv"],
        "memory": "64M",
        "restart": "no",
    }
    assert settings("--pids", "7", "--cpus", "0.5", "x")["pids"] == 7


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--network", "back"), {"networks": ["back"]}),
        (("--network", "back", "--net", "front"), {"networks": ["back", "front"]}),
        (("--network", "none"), {"network": "none"}),
        (("--network=bridge",), {"network": "private"}),
        (("-m", "512m"), {"memory": "512m"}),
        (("--restart", "on-failure:3"), {"restart": "on-failure:3"}),
        (("--restart", "unless-stopped"), {"restart": "unless-stopped"}),
        (("-e", "HERE", "-e", "NOT_HERE", "-e", "A=1=2"), {"env": {"HERE": "home", "A": "1=2"}}),
        (("-w", "/srv"), {"working_dir": "/srv"}),
        (("--tmpfs", "/a", "--tmpfs", "/b:rw,noexec,size=64m"), {"tmpfs": ["/a", "/b:size=64m"]}),
        (("--label", "a=b", "-l", "c"), {"labels": {"a": "b", "c": ""}}),
        (("--hostname", "box"), {"hostname": "box"}),
        (("--cap-add", "NET_ADMIN", "--cap-drop", "ALL"), {"capabilities": ["NET_ADMIN"], "cap_drop": ["ALL"]}),
        (("--init",), {}),
        (("--pull", "always"), {"pull_policy": "always"}),
    ],
)
def test_each_is_a_setting_that_the_declaration_takes(words: Sequence[str], wanted: dict[str, object]) -> None:
    made = settings(*words, "r.example/x:1")
    assert made == {"image": "r.example/x:1", "restart": "no", **wanted}
    parse_host(transient.add(HOST, "run-x", json.dumps(made)), "host.yaml")


def test_variables_come_from_files_too_and_those_of_the_command_line_win(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a note\n\nA=file\nB=x=y\nHERE\nNOT_HERE\n")
    assert settings("--env-file", str(file), "-e", "A=line", "x")["env"] == {"A": "line", "B": "x=y", "HERE": "home"}
    with pytest.raises(UsageError, match="cannot be read"):
        settings("--env-file", str(tmp_path / "nope"), "x")
    with pytest.raises(UsageError, match="has a name"):
        settings("-e", "=1", "x")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-it",), "exec -it"),
        (("--privileged",), "--cap-add"),
        (("--device", "/dev/kvm"), "host.yaml"),
        (("-P",), "-p 8080:80"),
        (("--network", "none", "--network", "back"), "declared networks"),
    ],
)
def test_what_stays_out_says_what_to_do(words: Sequence[str], hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings(*words, "x")
    assert hint in raised.value.hint
    assert settings("x", *words)["args"] == list(words), "of the command, they are its own"


@pytest.mark.parametrize("words", [("-d", "--rm"), ("--restart", "always"), ("--json",)])
def test_options_that_cannot_be_together(words: Sequence[str]) -> None:
    with pytest.raises(UsageError):
        run.check(parsed(*words, "x"))
    run.check(parsed("-d", "--json", "x"))


def test_create_takes_the_same() -> None:
    parser = argparse.ArgumentParser()
    create.configure(parser)
    made = run_options.settings(parser.parse_args(["--network", "back", "-w", "/srv", "x"]))
    assert (made["networks"], made["working_dir"]) == (["back"], "/srv")
