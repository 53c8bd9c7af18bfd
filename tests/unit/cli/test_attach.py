"""What follows a workload's output: it loses nothing for a slow reader, and ends with its reader."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from hostctl.agent import unit_control
from hostctl.cli import attach
from hostctl.errors import HostctlError

NUMBER = "0123456789abcdef0123456789abcdef"
LOT = 300_000  # bytes, which no pipe holds
STAYS = "exec sleep 1000"


class Unit:
    """Stands for a unit of systemd, whose first process is a child of this one."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(["sh", "-c", "read line; exit 7"], stdin=subprocess.PIPE)

    def show(self, units: Sequence[str], properties: Sequence[str]) -> list[Mapping[str, str]]:
        """Say how it is."""
        pid, over = str(self.child.pid), self._is_over()
        first = {"MainPID": "0", "ExecMainCode": "1", "ExecMainStatus": "7"} if over else {"MainPID": pid}
        return [{"InvocationID": NUMBER, "ExecMainPID": pid, "ExecMainCode": "0", **first}]

    def _is_over(self) -> bool:
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """Let it end."""
        assert self.child.stdin is not None
        self.child.stdin.close()


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    """Return a unit that runs."""
    made = Unit()
    monkeypatch.setattr(unit_control, "show", made.show)
    monkeypatch.setattr(attach, "LAST_LINES", 0.5)
    yield made
    made.child.kill()
    made.child.communicate()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes a shell script stand for journalctl."""

    def says(script: str) -> None:
        program = tmp_path / "journalctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return says


def read_late(reader: int, seconds: float) -> Callable[[], bytes]:
    """Read a pipe to its end, from so many seconds later on; what is returned waits for that and gives all bytes."""
    found: list[bytes] = []

    def read() -> None:
        threading.Event().wait(seconds)
        with os.fdopen(reader, "rb") as stream:
            found.append(stream.read())

    thread = threading.Thread(target=read)
    thread.start()

    def result() -> bytes:
        thread.join()
        return found[0]

    return result


@pytest.mark.parametrize("before", [False, True], ids=["ends-meanwhile", "has-ended"])
def test_a_slow_reader_gets_everything(unit: Unit, journal: Callable[[str], None], *, before: bool) -> None:
    journal(f"head -c {LOT} /dev/zero; sleep 0.2; echo the end; {STAYS}")
    ending = threading.Timer(0.0 if before else 0.3, unit.end)
    ending.start()
    if before:
        os.waitid(os.P_PID, unit.child.pid, os.WEXITED | os.WNOWAIT)
    reader, writer = os.pipe()
    found = read_late(reader, 1.5)
    try:
        assert attach.follow("web", lines="all", output=writer) == 7
    finally:
        os.close(writer)
        ending.join()
    assert found() == bytes(LOT) + b"the end\n"


@pytest.mark.parametrize("says", [STAYS, "exec yes"], ids=["silent", "chatty"])
def test_a_reader_that_leaves_ends_it_while_the_workload_runs_on(
    unit: Unit, journal: Callable[[str], None], says: str
) -> None:
    journal(says)
    reader, writer = os.pipe()
    leaving = threading.Timer(0.5, os.close, (reader,))
    leaving.start()
    try:
        with pytest.raises(BrokenPipeError):
            attach.follow("web", lines="0", output=writer)
    finally:
        os.close(writer)
        leaving.join()
    assert unit.child.poll() is None


def test_a_follower_that_ends_is_told(unit: Unit, journal: Callable[[str], None]) -> None:
    journal("echo one line")
    with pytest.raises(HostctlError, match="journalctl ended before"):
        attach.follow("web", lines="0", output=os.open(os.devnull, os.O_WRONLY))


def test_a_full_disk_is_told(unit: Unit, journal: Callable[[str], None]) -> None:
    journal(f"echo one line; {STAYS}")
    with open("/dev/full", "wb") as full, pytest.raises(HostctlError, match="No space left"):  # noqa: PTH123 - a device
        attach.follow("web", lines="0", output=full.fileno())


def test_only_what_this_run_prints_is_followed(unit: Unit, journal: Callable[[str], None]) -> None:
    journal(f'echo "$@"; {STAYS}')
    unit.end()
    reader, writer = os.pipe()
    found = read_late(reader, 0.0)
    attach.follow("web", lines="all", output=writer)
    os.close(writer)
    asked = found().decode().split()
    assert {"--follow", "--lines=all", "_SYSTEMD_UNIT=workload-web.service"} <= set(asked)
    assert asked[-1] == f"_SYSTEMD_INVOCATION_ID={NUMBER}"
