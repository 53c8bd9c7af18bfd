"""`hostctl run` behaves as a run: its own output, its own status, and a Ctrl-C that reaches the workload."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence

import pytest

from hostctl.agent import bus, unit_control
from hostctl.cli import run as run_verb
from hostctl.cli.logs import command

NUMBER = "0123456789abcdef0123456789abcdef"


class Agent:
    """Answers calls as the bus does, and shows what systemd would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.answer: dict[str, object] = {"workload": "run-x", "started": True, "notes": []}
        self.seen: dict[str, str] = {}
        self.during: Callable[[], int] = lambda: 5
        monkeypatch.setattr(bus, "call", self.call)
        monkeypatch.setattr(unit_control, "show", self.show)
        monkeypatch.setattr(run_verb, "follow", self.follow)

    def call(self, member: str, *arguments: str, **others: object) -> str:
        """Answer."""
        self.calls.append((member, *arguments))
        return json.dumps(self.answer)

    def show(self, units: Sequence[str], properties: Sequence[str]) -> list[Mapping[str, str]]:
        """Say what run it is."""
        return [{"InvocationID": NUMBER}]

    def follow(self, workload: str, *, lines: str, invocation: str) -> int:
        """Stand for the time until the end."""
        self.seen = {"workload": workload, "lines": lines, "invocation": invocation}
        return self.during()

    def run(self, *words: str) -> int:
        """Run the verb."""
        parser = argparse.ArgumentParser()
        run_verb.configure(parser)
        return run_verb.run(parser.parse_args([*words, "r.example/x:1"]))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Return the other side."""
    return Agent(monkeypatch)


def test_only_the_output_of_this_run_is_shown(agent: Agent) -> None:
    assert agent.run("--rm") == 5
    assert agent.seen == {"workload": "run-x", "lines": "all", "invocation": NUMBER}
    assert agent.calls[-1] == ("Remove", "run-x")
    words = command(["workload-run-x.service"], follow=True, lines="all", invocation=NUMBER)
    assert words[-2:] == ["_SYSTEMD_UNIT=workload-run-x.service", f"_SYSTEMD_INVOCATION_ID={NUMBER}"]


@pytest.mark.parametrize("words", [("--rm",), ("-d",), ()])
def test_a_start_that_failed_is_told_and_is_a_failure(
    words: Sequence[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answer |= {"started": False, "notes": ["workload run-x did not start: no such program"]}
    with pytest.raises(run_verb.NotStartedError) as raised:
        agent.run(*words)
    assert raised.value.exit_code == 125
    assert "no such program" in capsys.readouterr().err
    assert (("Remove", "run-x") in agent.calls) is ("--rm" in words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_request_to_end_is_passed_on_and_the_second_leaves(
    number: signal.Signals, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    former = signal.getsignal(number)

    def once() -> int:
        os.kill(os.getpid(), number)
        return 130

    agent.during = once
    assert agent.run() == 130
    assert agent.calls[-1] == ("Kill", "run-x", str(int(number)))
    assert signal.getsignal(number) == former

    def twice() -> int:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        return 0

    agent.during = twice
    with pytest.raises(KeyboardInterrupt):
        agent.run()
    assert "hostctl stop run-x" in capsys.readouterr().err
