"""Health: probes against real sockets, deciding and waiting without one."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from hostctl.agent import health
from hostctl.agent.machine import UnitState, parse_states
from hostctl.config.host import Workload
from hostctl.config.load import parse_host

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
    ],
)
def test_a_workload_is_well_when_up_and_its_check_says_so(
    check: str, unit: UnitState | None, said: str, good: bool
) -> None:
    assert health.judge_workload(workload(check), unit, said)[0] is good


def test_patience_covers_the_workloads_own_check() -> None:
    patient = workload(", healthcheck: {tcp: 'localhost:1', interval: 1m, timeout: 10s, retries: 2, start_period: 5m}")
    assert health.workload_deadline(patient) == 300 + 2 * 70
    assert health.workload_deadline(workload()) == 90
