"""What a command in a workload gets as its files: never a terminal, and standard input only if it is wanted."""

from __future__ import annotations

import argparse
import os
import pty
import tty
from collections.abc import Iterator, Sequence

import pytest

from hostctl.agent import client
from hostctl.cli import exec as exec_verb
from hostctl.cli import relay


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Return what a person types at and reads from, and the terminal."""
    person, ours = pty.openpty()
    tty.setraw(ours)
    yield person, ours
    os.close(person)
    os.close(ours)


def test_a_terminal_has_a_pipe_before_it(terminal: tuple[int, int]) -> None:
    person, ours = terminal
    os.write(person, b"typed")
    with relay.files(interactive=True, own=(ours, ours, ours)) as (given, said, wrong):
        assert not any(os.isatty(file) for file in (given, said, wrong))
        assert os.read(given, 100) == b"typed"
        assert said == wrong, "one pipe keeps the order"
        os.write(said, b"out")
        os.write(wrong, b"err")
    assert os.read(person, 100) == b"outerr"


def test_other_files_go_as_they_are_and_input_only_if_it_is_wanted(terminal: tuple[int, int]) -> None:
    person, ours = terminal
    source, target = os.pipe()
    with relay.files(interactive=True, own=(source, target, ours)) as (given, said, wrong):
        assert (given, said) == (source, target)
        os.write(wrong, b"err")
    assert os.read(person, 100) == b"err"
    os.write(target, b"the list")
    with relay.files(interactive=False, own=(source, target, target)) as (given, said, wrong):
        assert (os.read(given, 100), said, wrong) == (b"", target, target)
    assert os.read(source, 100) == b"the list"
    os.close(source)
    os.close(target)


def test_what_a_command_leaves_behind_neither_delays_the_end_nor_writes_after_it(terminal: tuple[int, int]) -> None:
    person, ours = terminal
    with relay.files(interactive=True, own=(ours, ours, ours)) as (given, said, _):
        kept, reads = os.dup(said), os.dup(given)
        os.write(kept, b"before")
    assert os.read(person, 100) == b"before"
    with pytest.raises(BrokenPipeError):
        os.write(kept, b"later")
    os.write(person, b"password")
    assert os.read(reads, 100) == b"", "what is typed later goes elsewhere"
    assert os.read(ours, 100) == b"password"
    os.close(kept)
    os.close(reads)


@pytest.mark.parametrize(("words", "given"), [(("-i",), True), ((), False)])
def test_exec_gives_standard_input_with_i_only(
    words: Sequence[str], given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def execute(name: str, wanted: object, files: Sequence[int]) -> int:
        seen.append(os.path.sameopenfile(files[0], 0))
        assert not any(os.isatty(file) for file in files)
        return 3

    monkeypatch.setattr(client, "execute", execute)
    parser = argparse.ArgumentParser()
    exec_verb.configure(parser)
    source, target = os.pipe()
    former = os.dup(0)
    os.dup2(source, 0)
    try:
        assert exec_verb.run(parser.parse_args([*words, "site", "ls"])) == 3
    finally:
        os.dup2(former, 0)
        for file in (former, source, target):
            os.close(file)
    assert seen == [given]
