"""What a command inside a workload gets."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostctl.agent import ending, execution
from hostctl.agent.caller import Caller
from hostctl.agent.execution import ExecError
from hostctl.agent.overview import NotRunningError
from hostctl.agent.request import ExecRequestError, Request, decode, encode
from hostctl.agent.service import HostService
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.workload.accounts import Account

BUNDLE = json.dumps(
    {
        "process": {
            "apparmorProfile": "tight",
            "terminal": False,
            "args": ["/site"],
            "cwd": "/srv",
            "env": ["PATH=/bin", "MODE=serve"],
            "user": {"uid": 33, "gid": 33},
            "capabilities": {"bounding": ["CAP_CHOWN"]},
            "noNewPrivileges": True,
        }
    }
).encode()


def document(request: Request) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(execution.process_document(BUNDLE, request))
    return decoded


def test_the_containers_own_settings_hold() -> None:
    process = document(Request(argv=("id", "-u"), terminal=True))
    assert process["args"] == ["id", "-u"]
    assert process["terminal"] is True
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 33, "gid": 33}
    assert process["capabilities"] == {"bounding": ["CAP_CHOWN"]}
    assert process["noNewPrivileges"] is True
    assert process["apparmorProfile"] == "tight"


def test_variables_folder_and_user_are_replaced() -> None:
    request = Request(argv=("id",), workdir="/var", env=("MODE=debug", "X=1"))
    account = Account(uid=1000, gid=7, groups=(4,))
    process = json.loads(execution.process_document(BUNDLE, request, account))
    assert process["env"] == ["PATH=/bin", "MODE=debug", "X=1"]
    assert process["cwd"] == "/var"
    assert process["user"] == {"uid": 1000, "gid": 7, "additionalGids": [4]}
    assert process["capabilities"] == {"bounding": ["CAP_CHOWN"]}


def test_root_of_the_workload_has_what_its_bounding_set_allows_and_no_more() -> None:
    process = json.loads(execution.process_document(BUNDLE, Request(argv=("id",)), Account(uid=0, gid=0)))
    assert process["capabilities"] == {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}


def test_a_request_comes_back_as_it_was_sent() -> None:
    request = Request(argv=("sh", "-c", "echo $A"), terminal=True, user="www-data:5", workdir="/srv", env=("A=b=c",))
    assert decode(encode(request)) == request


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": [""]},
        {"argv": ["a\0b"]},
        {"argv": ["x" * (1 << 20)]},
        {"user": "a\0b"},
        {"workdir": "srv"},
        {"workdir": "/srv/../../etc"},
        {"workdir": "/proc/self/fd/7"},
        {"workdir": "/./proc/1/root"},
        {"env": ["=x"]},
        {"env": ["A"]},
    ],
)
def test_what_is_not_a_request_is_refused(changes: dict[str, object]) -> None:
    good: dict[str, object] = {"argv": ["id"], "terminal": False, "user": "", "workdir": "", "env": []}
    decode(json.dumps(good))
    with pytest.raises(ExecRequestError):
        decode(json.dumps({**good, **changes}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"argv": 1}'])
def test_no_document_is_refused(text: str) -> None:
    with pytest.raises(ExecRequestError):
        decode(text)


def test_a_workload_that_ended_a_moment_ago_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(BUNDLE)
    ended = subprocess.Popen(["true"])
    ended.wait()
    where = execution.Target(name="web", pid=ended.pid, bundle=tmp_path / "config.json")
    request, layout = Request(argv=("ls",)), HostLayout(root=tmp_path)
    with pytest.raises(NotRunningError, match="has just ended"):
        execution.execute(where, request, layout=layout, descriptors=(0, 1, 2), caller=Caller())


CRUN = """\
#!{python}
import os, pty, socket, sys
words = sys.argv
if "--console-socket" in words:
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(words[words.index("--console-socket") + 1])
        socket.send_fds(channel, [b"x"], [master])
(log,) = [word.removeprefix("--log=file:") for word in words if word.startswith("--log=file:")]
with open(log, "a") as file:
    file.write({said!r})
sys.exit({status})
"""


@pytest.fixture
def executed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return what runs a command by a runtime that logs something and ends with a status."""
    tmp_path = tmp_path_factory.mktemp("x")  # a socket's path has 107 bytes
    monkeypatch.setattr(execution, "ENVIRONMENT", {"PATH": str(tmp_path)})
    monkeypatch.setattr(execution, "cgroup_of", lambda pid: tmp_path)
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "config.json").write_bytes(BUNDLE)
    where = execution.Target(name="web", pid=1, bundle=tmp_path / "config.json")
    layout = HostLayout(root=tmp_path / "root")

    def run(said: str, status: int, *, terminal: bool = False) -> int:
        (tmp_path / "crun").write_text(CRUN.format(python=sys.executable, said=said, status=status))
        (tmp_path / "crun").chmod(0o755)
        request = Request(argv=("x",), terminal=terminal)
        here, there = socket.socketpair()
        with here, there:
            try:
                return execution.execute(where, request, layout=layout, descriptors=[there.fileno()] * 3)
            finally:
                assert list((layout.runtime / "exec").iterdir()) == []

    return run


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("said", "wanted", "code"),
    [
        ("executable file `x` not found in $PATH: No such file or directory", ExecError, 127),
        ("chdir to `/nowhere`: No such file or directory", ExecError, 127),
        ("the path `/not found` exists but it is not executable: Operation not permitted", ExecError, 126),
        ("the path `/etc` is not a regular file: Operation not permitted", ExecError, 126),
        ("error opening file `/run/crun/web/status`: No such file or directory", NotRunningError, 1),
        ("the container `web` is not running", NotRunningError, 1),
    ],
)
def test_a_command_that_is_not_run(
    executed: Callable[..., int], said: str, wanted: type[HostctlError], code: int, *, terminal: bool
) -> None:
    with pytest.raises(wanted) as raised:
        executed(f"{said}\n", 1, terminal=terminal)
    assert (raised.value.details, raised.value.exit_code) == (said, code)


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_a_status_is_the_commands_own_where_the_runtime_says_nothing(executed: Callable[..., int], status: int) -> None:
    assert executed("", status) == status


def test_what_the_runtime_says_of_variables_is_kept_from_everybody(executed: Callable[..., int]) -> None:
    with pytest.raises(ExecError) as raised:
        executed("putenv `PASSWORD=open\nsesame`: Cannot allocate memory\n", 1)
    assert (raised.value.details, raised.value.exit_code) == ("the environment cannot be set", 126)


Runtime = subprocess.Popen[bytes]


@contextmanager
def running(*words: str) -> Iterator[Runtime]:
    """Run what stands for the runtime: it waits for a program, which has started another, and gives its status."""
    program = "trap '' HUP; sleep 1000 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", 'sh -c "$0"; exit $?', program, *words], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            ending.end_started(process.pid)
            process.kill()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """Run one."""
    with running() as process:
        yield process


def grandchild(runtime: Runtime) -> int:
    assert runtime.stdout is not None
    return int(runtime.stdout.readline())


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until_ended(pid: int) -> None:
    end = time.monotonic() + 10
    while runs(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.02)


def test_a_program_is_waited_for_while_its_caller_is_there(runtime: Runtime) -> None:
    started = grandchild(runtime)
    caller = Caller()
    timer = threading.Timer(0.3, lambda: subprocess.run(["kill", str(started)], check=True))
    timer.start()
    assert execution.wait_for(runtime, caller) == 0
    timer.join()


def test_a_program_whose_caller_has_gone_is_ended_with_what_it_started(runtime: Runtime) -> None:
    started = grandchild(runtime)
    caller = Caller()
    threading.Timer(0.3, caller.leave).start()
    assert execution.wait_for(runtime, caller) == 128 + signal.SIGKILL
    until_ended(started)


def test_a_program_that_was_hung_up_has_time_to_end(runtime: Runtime) -> None:
    grandchild(runtime)
    caller = Caller()
    caller.leave()
    before = time.monotonic()
    assert execution.wait_for(runtime, caller, patience=0.5) == 128 + signal.SIGKILL
    assert time.monotonic() - before >= 0.5


def test_what_a_killed_agent_ran_is_ended_by_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    told = layout.runtime / "exec/web.0.json"
    (told.parent / "terminal").mkdir(parents=True)
    told.write_bytes(b"{}")
    with running("--process", str(told)) as left, running("--process", str(tmp_path / "web.0.json")) as other:
        program, others = grandchild(left), grandchild(other)
        HostService(layout).recover()
        assert left.wait(10) == -signal.SIGKILL
        until_ended(program)
        assert runs(others)
    assert list(told.parent.iterdir()) == []


def test_a_process_that_is_another_by_now_is_left_alone(runtime: Runtime) -> None:
    program = grandchild(runtime)
    ending.end(runtime.pid, lambda: False)
    assert runs(program)
    assert runtime.poll() is None


def test_a_caller_who_has_gone_is_seen_by_whoever_looks_later() -> None:
    caller = Caller()
    with caller.watch() as before:
        assert not select.select([before], [], [], 0)[0]
        caller.leave()
        assert select.select([before], [], [], 0)[0]
    with caller.watch() as after:
        assert select.select([after], [], [], 0)[0]
    caller.leave()
