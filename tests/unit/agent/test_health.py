"""Health: probes against real sockets, deciding and waiting without one."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from hostctl.agent import health
from hostctl.agent.machine import SystemdMachine, UnitState, parse_states
from hostctl.config.load import parse_host
from hostctl.config.workload import Workload
from hostctl.layout import HostLayout
from hostctl.workload import probe

SHOWN = """LoadState=loaded
ActiveState=active
SubState=running
Result=success
MainPID=42
NRestarts=1
ActiveEnterTimestampMonotonic=5000000

LoadState=not-found
ActiveState=inactive
SubState=dead

LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
MainPID=0
ActiveEnterTimestampMonotonic=0
"""


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "good"), [(200, True), (204, True), (302, True), (404, False), (500, False)])
def test_http_is_judged_by_its_status(site: str, status: int, good: bool) -> None:
    assert health.probe_http(f"http://{site}/{status}")[0] is good


ENDLESS = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200", b"x")
"""What is sent again and again, after a pause that is shorter than a probe may last."""


@pytest.mark.parametrize("part", ENDLESS)
def test_an_answer_without_end_ends_within_the_time_of_a_probe(part: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                for _ in range(100):
                    connection.sendall(part)
                    time.sleep(0.1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        began = time.monotonic()
        assert not health.probe_http(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=0.5)[0]
        assert time.monotonic() - began < 3
        thread.join(10)


GREETINGS = b"\x16\x03\x03\x40\x00" + bytes(4) * 0x1000
"""Many messages of TLS that ask for a handshake, which is under way: so each is passed over."""


def test_a_handshake_without_end_ends_within_the_time_of_a_probe() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                while not over.is_set():
                    connection.sendall(GREETINGS * 64)

        threads = [threading.Thread(target=greet, daemon=True)]
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        said: list[bool] = []
        threads.append(threading.Thread(target=lambda: said.append(health.probe_http(url, 0.5)[0]), daemon=True))
        for each in threads:
            each.start()
        threads[1].join(5)
        over.set()
        threads[0].join(10)
        assert said == [False]


def test_an_https_address_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/certificate"]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{tmp_path}/certificate", f"{tmp_path}/key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"https://localhost:{server.server_port}/204"
    try:
        assert "certificate" in health.probe_http(url)[1]
        assert probe.try_http(url, 5) == (True, f"{url}: status 204")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", f"{tmp_path}/certificate")
            assert health.probe_http(url) == (True, f"{url}: status 204")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_tcp_is_judged_by_connecting(site: str) -> None:
    assert health.probe_tcp(site)[0]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not health.probe_tcp(f"127.0.0.1:{closed.getsockname()[1]}")[0]
        assert not health.probe_http(f"http://127.0.0.1:{closed.getsockname()[1]}/")[0]


def test_states_are_read_in_the_order_asked_for() -> None:
    states = parse_states(SHOWN, ["a.service", "none.service", "b.service"], now=7.5)
    assert set(states) == {"a.service", "b.service"}
    assert (states["a.service"].is_active, states["a.service"].active_for) == (True, 2.5)
    assert (states["a.service"].main_pid, states["a.service"].restarts) == (42, 1)
    assert (states["b.service"].active, states["b.service"].active_for) == ("failed", 0.0)


def workload(check: str = "") -> Workload:
    text = f"version: 1\nhostname: a\nworkloads:\n  w: {{image: 'r.example/w:1', required: true{check}}}\n"
    return next(iter(parse_host(text, "host.yaml").workloads.values()))


def state(active: str = "active", active_for: float = 60.0) -> UnitState:
    return UnitState(
        name="w", active=active, sub="running", result="success", main_pid=1, restarts=0, active_for=active_for
    )


CHECKED = ", healthcheck: {http: 'http://localhost/'}"


@pytest.mark.parametrize(
    ("check", "unit", "said", "good"),
    [
        ("", state(), "", True),
        ("", state(active_for=0.1), "", False),
        ("", state("activating"), "", False),
        ("", None, "", False),
        (CHECKED, state(), "healthy", True),
        (CHECKED, state(), "unhealthy", False),
        (CHECKED, state(), "", False),
        (CHECKED, state("failed"), "healthy", False),
        (", type: job", state("inactive"), "", True),
        (", type: job", state(active_for=0.1), "", True),
        (", type: job", state("activating"), "", False),
        (", type: job", state("failed"), "", False),
        (", type: job, schedule: daily", state("inactive"), "", True),
        (", init: false, sockets: [80]", state("inactive"), "", True),
    ],
)
def test_a_workload_is_well_when_up_and_its_check_says_so(
    check: str, unit: UnitState | None, said: str, good: bool
) -> None:
    assert health.judge_workload(workload(check), unit, said)[0] is good


CHAIN = """version: 1
hostname: a
workloads:
  shop: {image: r.example/w:1, required: true, depends_on: {db: {}, cache: {}}}
  db: {image: r.example/w:1, depends_on: {disk: {}},
    healthcheck: {tcp: 'localhost:1', interval: 1m, timeout: 10s, retries: 2, start_period: 5m}}
  cache: {image: r.example/w:1}
  disk: {image: r.example/w:1}
"""


def test_patience_covers_a_workloads_check_and_those_it_starts_after() -> None:
    declaration = parse_host(CHAIN, "host.yaml")
    declared = {str(name): each for name, each in declaration.workloads.items()}
    own = 300 + 2 * 70
    assert health.workload_deadlines(declared) == {"disk": 90, "cache": 90, "db": 90 + own, "shop": 180 + own}
    assert health.deadlines(declaration, ["shop"]) == {("workload", "shop"): 180 + own}


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ("1111", True),
        ("01111", True),
        ("1101111", True),  # it went away once, and then stayed
        ("10101010101010101010", False),  # it comes and goes until its time is over
        ("0" * 20, False),
    ],
)
def test_what_comes_and_goes_is_not_steady(tmp_path: Path, answers: str, healthy: bool) -> None:
    """One second passes a round; the check may take ten, and must then pass for three."""
    sockets: list[socket.socket] = []
    now = [0.0]

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    declaration = parse_host(
        f"version: 1\nhostname: a\nhealth: {{site: {{tcp: '127.0.0.1:{port}', within: 10s}}}}\n", "host.yaml"
    )

    def turn(answer: str) -> None:
        while sockets:
            sockets.pop().close()
        if answer == "1":
            sockets.append(socket.create_server(("127.0.0.1", port)))

    def pause(seconds: float) -> None:
        del seconds
        now[0] += 1
        turn(answers[min(int(now[0]), len(answers) - 1)])

    turn(answers[0])
    machine = SystemdMachine(HostLayout(root=tmp_path))
    report = health.wait(declaration, machine, clock=lambda: now[0], pause=pause, steady=3.0)
    turn("0")
    assert report.healthy == healthy
    assert now[0] <= 11


@pytest.mark.parametrize(("took", "rest"), [(0.0, 0.5), (0.1, 0.5), (1.0, 2.0), (4.0, 3.0)])
def test_where_looking_takes_long_it_is_done_less_often(tmp_path: Path, took: float, rest: float) -> None:
    now: list[float] = [0.0]
    rests: list[float] = []

    class Slow(SystemdMachine):
        def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
            now[0] += took if names else 0
            return {}

    def pause(seconds: float) -> None:
        rests.append(seconds)
        now[0] += seconds

    declaration = parse_host("version: 1\nhostname: a\nhealth: {x: {unit: x.service, within: 20s}}\n", "host.yaml")
    machine = Slow(HostLayout(root=tmp_path))
    assert not health.wait(declaration, machine, clock=lambda: now[0], pause=pause).healthy
    assert rests == [pytest.approx(rest)] * len(rests)
    assert rests


def test_only_what_has_no_time_left_is_late(tmp_path: Path) -> None:
    class Mixed(SystemdMachine):
        def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
            return {"workload-db.service": state("failed"), "workload-disk.service": state("activating")}

    declaration = parse_host(CHAIN, "host.yaml")
    report = health.wait(declaration, Mixed(HostLayout(root=tmp_path)), workloads=["db", "disk"])
    assert [each.name for each in report.failures] == ["db", "disk"]
    assert [each.name for each in report.late] == ["db"]
