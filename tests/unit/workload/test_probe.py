"""The health check of a workload, against real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostctl.agent import event_log
from hostctl.agent.event_log import Event
from hostctl.workload import instance, probe


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Serve one connection with ``answer``; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def document(**changes: Any) -> str:  # noqa: ANN401
    base = {
        "kind": "tcp",
        "target": "x",
        "timeout": 2,
        "retries": 2,
        "start_period": 0,
        "restart": False,
        "join": False,
    }
    return "".join(f"{key} {value}\n" for key, value in {**base, **changes}.items())


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 500 No\r\n\r\n", False),
        (b"SSH-2.0-x 200 \r\n", False),
        (b"", False),
        (b"x" * 100_000, False),
    ],
)
def test_http_is_good_from_200_to_399_and_nothing_else_is(answer: bytes, good: bool) -> None:
    with answering(answer) as port:
        assert probe.try_http(f"http://127.0.0.1:{port}/live?x=1", 5)[0] is good


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://localhost", (False, "localhost", 80, "localhost", "/")),
        ("http://localhost?a=/b", (False, "localhost", 80, "localhost", "/?a=/b")),
        ("https://[::1]:8443/x#y", (True, "::1", 8443, "[::1]:8443", "/x")),
        ("https://[::1]/", (True, "::1", 443, "[::1]", "/")),
        ("http://u:p@web:81/a@b", (False, "web", 81, "web:81", "/a@b")),
    ],
)
def test_addresses_are_taken_apart(url: str, parts: tuple[object, ...]) -> None:
    assert probe.split_url(url) == parts


def test_failures_count_in_a_row_and_only_after_the_start() -> None:
    check = probe.Check(document(retries=2, start_period=10, restart=True))
    assert probe.decide(False, 1, 9.9, check) == ("", 0, False)
    assert probe.decide(False, 0, 10.0, check) == ("", 1, False)
    assert probe.decide(False, 1, 10.0, check) == ("unhealthy", 0, True)
    assert probe.decide(True, 1, 10.0, check) == ("healthy", 0, False)


def test_the_program_says_healthy_then_unhealthy_and_starts_counting_anew_with_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "health").mkdir()
    (tmp_path / "pids").mkdir()
    pid = tmp_path / "pids/web"
    pid.write_text(str(os.getpid()))
    state = tmp_path / "health/web"
    check = tmp_path / "health.check"
    listener = socket.create_server(("127.0.0.1", 0))
    check.write_text(document(target=f"127.0.0.1:{listener.getsockname()[1]}"))
    run = [str(check), str(tmp_path)]
    first = pid.stat().st_mtime_ns
    assert probe.main("web", *run) == 0
    assert state.read_text() == f"healthy {first}"
    listener.close()
    probe.main("web", *run)
    assert state.read_text() == f"healthy {first}"
    os.utime(pid, ns=(1, 1))
    probe.main("web", *run)
    assert state.read_text() == f"healthy {first}"
    probe.main("web", *run)
    assert state.read_text() == "unhealthy 1"


def test_a_change_is_an_event_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("health", "pids"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pids/web.2").write_text(str(os.getpid()))
    listener = socket.create_server(("127.0.0.1", 0))
    check = tmp_path / "health.check"
    check.write_text(document(target=f"127.0.0.1:{listener.getsockname()[1]}", retries=1, restart=False))
    monkeypatch.setattr(probe, "JOURNAL", str(tmp_path / "journal"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.setblocking(False)

        def told() -> list[Event | None]:
            assert probe.main("web.2", str(check), str(tmp_path)) == 0
            try:
                fields = dict(line.split("=", 1) for line in journal.recv(4096).decode().splitlines())
            except BlockingIOError:
                return []
            return [event_log.parse(json.dumps({**fields, "_UID": "0", "__REALTIME_TIMESTAMP": "1"}))]

        (event,) = told()
        assert event is not None
        assert (event.type, event.action, event.name) == ("workload", "health_status", "web")
        assert event.attributes == {"health_status": "healthy", "instance": "2"}
        assert told() == []
        listener.close()
        (event,) = told()
        assert event is not None
        assert event.attributes["health_status"] == "unhealthy"
    assert told_without_a_journal(check, tmp_path) == 0


def told_without_a_journal(check: Path, runtime: Path) -> int:
    """Return what a check ends with when nobody listens to what it has to tell."""
    (runtime / "health/web.2").unlink()
    return probe.main("web.2", str(check), str(runtime))


def test_it_runs_by_the_bare_interpreter(tmp_path: Path) -> None:
    check = tmp_path / "health.check"
    check.write_text(document())
    argv = [sys.executable, "-I", "-S", str(probe.__file__), "no-such-workload", str(check)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_asking_over_http_loads_nothing_that_is_slow_to_load() -> None:
    unwanted = ("encodings.idna", "enum", "json", "pathlib", "re", "signal", "socket")
    look = f"print(answer, [name for name in {unwanted!r} if name in sys.modules])"
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        ask = f"answer = probe.try_http('http://localhost:{port}/', 5)[0]"
        code = f"import sys; sys.path.append({str(Path(probe.__file__).parent)!r}); import probe; {ask}; {look}"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_an_address_that_does_not_answer_leads_to_the_next() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    assert probe.try_tcp(f"localhost:{port}", 5) == (True, f"localhost:{port}: accepts connections")
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        probe.try_tcp(f"localhost:{port}", 5)


def test_waiting_ends_with_a_check_of_this_very_run(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "health").mkdir()
    pid = tmp_path / "pids/web"
    assert not probe.is_healthy("web", str(tmp_path))
    pid.write_text("1")
    (tmp_path / "health/web").write_text("healthy 1")
    assert not probe.is_healthy("web", str(tmp_path))
    (tmp_path / "health/web").write_text(f"unhealthy {pid.stat().st_mtime_ns}")
    assert not probe.is_healthy("web", str(tmp_path))
    (tmp_path / "health/web").write_text(f"healthy {pid.stat().st_mtime_ns}")
    assert probe.wait("web", str(tmp_path)) == 0


def test_any_instance_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "health").mkdir()
    assert tuple(f"web{each}" for each in probe.INSTANCES) == instance.keys("web")
    for key in instance.keys("web"):
        pid, said = tmp_path / "pids" / key, tmp_path / "health" / key
        pid.write_text("1")
        said.write_text(f"healthy {pid.stat().st_mtime_ns}")
        waiting = threading.Thread(target=probe.wait, args=("web", str(tmp_path)), daemon=True)
        waiting.start()
        waiting.join(5)
        assert not waiting.is_alive(), key
        pid.unlink()


def test_a_file_is_waited_for(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", probe.__file__, "--there", str(tmp_path / "there")]
    with subprocess.Popen(words) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        (tmp_path / "there").touch()
        assert waiting.wait(10) == 0


def test_the_packet_filter_is_told_when_health_changes_and_again_if_it_did_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, said, state = tmp_path / "bin", tmp_path / "said", tmp_path / "health/web"
    for folder in (programs, state.parent, tmp_path / "pids"):
        folder.mkdir(parents=True)
    program = programs / "nsenter"
    program.write_text(f'#!/bin/sh\necho "$@" >>{said}\ntest ! -e {tmp_path}/broken\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "pids/web").write_text(str(os.getpid()))
    listener = socket.create_server(("127.0.0.1", 0))
    check, target = tmp_path / "health.check", f"127.0.0.1:{listener.getsockname()[1]}"
    check.write_text(document(target=target, retries=1, serve="/serve.json", chain="replica-web.2"))

    def told() -> list[str]:
        probe.main("web", str(check), str(tmp_path))
        lines = said.read_text().splitlines() if said.exists() else []
        said.unlink(missing_ok=True)
        return lines

    serves = ["--net=/proc/1/ns/net nft -j -f /serve.json"]
    (tmp_path / "broken").touch()
    assert told() == serves
    assert not state.exists()
    (tmp_path / "broken").unlink()
    assert told() == serves
    assert told() == []
    assert state.read_text().startswith("healthy ")
    listener.close()
    assert told() == ["--net=/proc/1/ns/net nft flush chain inet hostctl replica-web.2"]
    assert told() == []
    assert state.read_text().startswith("unhealthy ")


class Runtime:
    """A program called crun, and whether processes that it and others started are still there."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.pid_file = folder, folder / "health/.web.pid"
        for path in (self.pid_file.parent, folder / f"cgroup{probe.group_of(os.getpid())}"):
            path.mkdir(parents=True, exist_ok=True)
        patch.setattr(probe, "RUNTIME", str(folder))
        patch.setattr(probe, "CGROUPS", str(folder / "cgroup"))
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def run(self, script: str, timeout: float = 2.0) -> tuple[bool, str]:
        """Check with a script of a shell in crun's place."""
        program = self.folder / "crun"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return probe.try_exec("web", "/process.json", os.getpid(), timeout)

    def ended(self, pid: int) -> bool:
        """Wait a moment for a process to end."""
        for _ in range(50):
            try:
                if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                    return True
            except OSError:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    return Runtime(tmp_path, monkeypatch)


@pytest.fixture
def bystander() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_a_command_is_good_if_it_ends_well_in_time(runtime: Runtime) -> None:
    assert runtime.run("exit 0", 5) == (True, "the command ended with 0")
    assert runtime.run("exit 3", 5) == (False, "the command ended with 3")
    assert runtime.run("kill -9 $$", 5) == (False, "the command ended with -9")


def test_a_command_that_lasts_too_long_is_ended_and_so_is_what_runs_it(runtime: Runtime) -> None:
    script = f'sleep 60 & echo $! >{runtime.pid_file}; echo "$$ $!" >{runtime.folder}/all; wait'
    assert runtime.run(script) == (False, "the command did not end within 2 s")
    assert all(runtime.ended(int(pid)) for pid in (runtime.folder / "all").read_text().split())


def test_one_that_was_not_written_down_is_ended_and_what_a_former_check_wrote_down_is_not(
    runtime: Runtime, bystander: int
) -> None:
    runtime.pid_file.write_text(str(bystander))
    script = f'sleep 60 & echo "$$ $!" >{runtime.folder}/all; while :; do sleep 60; done'
    assert runtime.run(script)[0] is False
    assert all(runtime.ended(int(pid)) for pid in (runtime.folder / "all").read_text().split())
    assert Path(f"/proc/{bystander}/status").exists()
    assert not runtime.ended(bystander)


def test_a_process_outside_of_the_workload_is_never_ended(
    runtime: Runtime, bystander: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime.folder / "cgroup/workload").mkdir()
    monkeypatch.setattr(probe, "group_of", lambda pid: "/workloads" if pid == bystander else "/workload")
    assert runtime.run(f"echo {bystander} >{runtime.pid_file}; exec sleep 60")[0] is False
    assert not runtime.ended(bystander)


def test_running_a_command_loads_nothing_that_is_slow_to_load(runtime: Runtime) -> None:
    (runtime.folder / "crun").write_text("#!/bin/sh\n")
    (runtime.folder / "crun").chmod(0o755)
    unwanted = ("enum", "json", "pathlib", "re", "signal", "socket", "subprocess")
    code = f"""import os, sys
sys.path.append({str(Path(probe.__file__).parent)!r})
import probe
probe.RUNTIME, probe.CGROUPS = {str(runtime.folder)!r}, {str(runtime.folder / "cgroup")!r}
answer = probe.try_exec("web", "/process.json", {os.getpid()}, 5)[0]
print(answer, [name for name in {unwanted!r} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True []\n", "")
