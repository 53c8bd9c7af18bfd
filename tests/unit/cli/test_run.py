"""`hostctl run` behaves as a run: its own output, its own status, and a Ctrl-C that reaches the workload."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from hostctl.agent import bus
from hostctl.cli import run as run_verb
from hostctl.errors import EXIT_BUSY, EXIT_UNAVAILABLE, EXIT_USAGE, HostctlError, UsageError


def failure(name: str, code: int = 1) -> HostctlError:
    """Return what the agent says of a failure."""
    document = {"id": name, "brief": "it failed", "details": "", "hint": "", "exit_code": code}
    return bus.remote_error(json.dumps(document))


class Agent:
    """Answers calls as the bus does, and stands for the time until the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.answer: dict[str, object] = {"workload": "run-x", "started": True, "notes": []}
        self.failures: dict[str, HostctlError] = {}
        self.seen: dict[str, str] = {}
        self.starting: Callable[[], object] = lambda: None
        self.during: Callable[[], int] = lambda: 5
        monkeypatch.setattr(bus, "call", self.call)
        monkeypatch.setattr(run_verb, "follow", self.follow)

    def call(self, member: str, *arguments: str, **others: object) -> str:
        """Answer."""
        self.calls.append((member, *arguments))
        if member == "Run":
            self.starting()
        if member in self.failures:
            raise self.failures[member]
        return json.dumps(self.answer)

    def follow(self, workload: str, *, lines: str) -> int:
        """Stand for the time until the end."""
        self.seen = {"workload": workload, "lines": lines}
        return self.during()

    def asked(self, member: str) -> list[str]:
        """Return the names that a method was called with."""
        return [name for called, name, *_ in self.calls if called == member]

    def run(self, *words: str) -> int:
        """Run the verb."""
        parser = argparse.ArgumentParser()
        run_verb.configure(parser)
        return run_verb.run(parser.parse_args([*words, "r.example/x:1"]))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """Return the other side; what is done about signals is as before afterwards."""
    former = {number: signal.getsignal(number) for number in run_verb.REQUESTS}
    yield Agent(monkeypatch)
    assert {number: signal.getsignal(number) for number in run_verb.REQUESTS} == former


def sent(*numbers: signal.Signals) -> Callable[[], int]:
    """Return what sends signals to this process."""

    def send() -> int:
        for number in numbers:
            os.kill(os.getpid(), number)
        return 0

    return send


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


@pytest.mark.parametrize("code", [1, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_BUSY])
def test_what_the_agent_does_not_run_is_told_by_dockers_status(code: int, agent: Agent) -> None:
    agent.failures["Run"] = failure("kettle-empty", code)
    with pytest.raises(HostctlError, match="it failed") as raised:
        agent.run("--rm", "--name", "x")
    assert (raised.value.id, raised.value.exit_code) == ("kettle-empty", 125)
    assert agent.asked("Remove") == [], "it may be another's"
    with pytest.raises(UsageError) as mistaken:
        agent.run("--rm", "--detach")
    assert mistaken.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_request_to_end_is_passed_on(number: signal.Signals, agent: Agent) -> None:
    agent.during = sent(number)
    assert agent.run() == 0
    wanted = signal.SIGTERM if number == signal.SIGHUP else number
    assert agent.calls[-1] == ("Kill", "run-x", str(int(wanted)))


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM),
    ],
)
@pytest.mark.parametrize("words", [(), ("--rm",)])
def test_the_second_request_is_for_this_process(
    numbers: Sequence[signal.Signals], words: Sequence[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.during = sent(*numbers)
    with pytest.raises(KeyboardInterrupt):
        agent.run(*words)
    assert len(agent.asked("Kill")) == 1
    assert ("hostctl stop run-x" in capsys.readouterr().err) is (not words)
    assert agent.asked("Remove") == (["run-x"] if words else [])


def test_a_terminal_that_is_closed_is_told_twice_and_counts_once(agent: Agent) -> None:
    agent.during = sent(signal.SIGHUP, signal.SIGHUP)
    assert agent.run("--rm") == 0
    assert [member for member, *_ in agent.calls] == ["Run", "Kill", "Remove"]


def test_what_is_to_be_ignored_is_ignored(agent: Agent) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        agent.during = sent(signal.SIGHUP)
        assert agent.run() == 0
        assert agent.asked("Kill") == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [(), ("--rm",), ("-d",)])
def test_nothing_stays_of_what_is_interrupted_while_it_starts(
    number: signal.Signals, words: Sequence[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.starting = sent(number)
    with pytest.raises(KeyboardInterrupt):
        agent.run(*words)
    assert agent.asked("Run") == agent.asked("Remove")
    assert agent.asked("Run") != [""]
    assert capsys.readouterr().err == ""
    agent.calls.clear()
    with pytest.raises(KeyboardInterrupt):
        agent.run(*words, "--name", "mine")
    assert agent.calls[0][:2] == ("Run", "mine")
    assert agent.asked("Remove") == [], "there may have been one of the name; the agent knows"


def test_an_agent_that_does_not_answer_leaves_nothing(agent: Agent) -> None:
    agent.failures["Run"] = bus.AgentUnavailableError("the connection to the agent broke")
    agent.failures["Remove"] = failure("run-unknown", EXIT_USAGE)
    with pytest.raises(HostctlError, match="connection") as raised:
        agent.run()
    assert raised.value.exit_code == 125
    assert agent.asked("Run") == agent.asked("Remove")


@pytest.mark.parametrize(("name", "told"), [("busy", True), ("run-unknown", False)])
def test_a_removal_that_fails_is_told_and_changes_no_status(
    name: str, told: bool, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.failures["Remove"] = failure(name, EXIT_BUSY)
    assert agent.run("--rm") == 5
    said = capsys.readouterr().err
    assert said == ("note: run-x stays: it failed; `hostctl rm run-x` removes it\n" if told else "")


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
    assert agent.asked("Remove") == (["run-x"] if words else [])
