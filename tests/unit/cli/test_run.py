"""`hostctl run` behaves as a run: its own output, its own status, and a Ctrl-C that reaches the workload."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Sequence

import pytest

from hostctl.agent import bus
from hostctl.cli import run as run_verb


class Agent:
    """Answers calls as the bus does, and shows what systemd would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.answer: dict[str, object] = {"workload": "run-x", "started": True, "notes": []}
        self.seen: dict[str, str] = {}
        self.during: Callable[[], int] = lambda: 5
        monkeypatch.setattr(bus, "call", self.call)
        monkeypatch.setattr(run_verb, "follow", self.follow)

    def call(self, member: str, *arguments: str, **others: object) -> str:
        """Answer."""
        self.calls.append((member, *arguments))
        return json.dumps(self.answer)

    def follow(self, workload: str, *, lines: str) -> int:
        """Stand for the time until the end."""
        self.seen = {"workload": workload, "lines": lines}
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


def test_its_output_is_shown_and_its_status_returned(agent: Agent) -> None:
    assert agent.run("--rm") == 5
    assert agent.seen == {"workload": "run-x", "lines": "all"}
    assert agent.calls[-1] == ("Remove", "run-x")


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


@pytest.mark.parametrize("words", [(), ("--rm",)])
def test_without_a_reader_it_is_left_or_removed(
    words: Sequence[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    def unread() -> int:
        raise BrokenPipeError

    agent.during = unread
    with pytest.raises(BrokenPipeError):
        agent.run(*words)
    assert ("hostctl stop run-x" in capsys.readouterr().err) is (not words)
    assert (("Remove", "run-x") in agent.calls) is bool(words)
