"""Metrics: the page, and who it is served to."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from hostctl.agent import metrics, metrics_server
from hostctl.agent.cgroups import Pressure, Usage
from hostctl.agent.metrics import Facts
from hostctl.agent.metrics_server import NoSocketError, Server
from hostctl.agent.overview import Status, WorkloadStatus
from hostctl.update.state import Failure, UpdateState

ROW = WorkloadStatus(
    name="web", image='r/"web"\\:1', digest="sha256:0", state="active", sub="running", health="healthy", main_pid=1,
    restarts=2, up_for=60.0,
)  # fmt: skip
STATUS = Status(
    hostname="web-1", release="2", releases=("1", "2"), bad=("3",), generation=7, generation_created="",
    state="running", problems=(), workloads=(ROW,),
)  # fmt: skip
UPDATE = UpdateState(
    staged="", trial=None, stage="", version="", busy="", failure=Failure(version="3", stage="root", cause="x", time="")
)
SAMPLE = re.compile(r'[a-z_:]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? -?[0-9.e+-]+')
FACTS = Facts(
    status=STATUS,
    update=UPDATE,
    usage={"web": Usage(cpu_seconds=1.5, memory=1 << 20, pids=3, pressure={"io": Pressure(some_seconds=0.25)})},
    free={"/var": (10, 20)},
    now=1000.0,
)


def test_every_line_is_a_sample_of_a_metric_that_is_described_before_it() -> None:
    described: set[str] = set()
    for line in metrics.render(FACTS).splitlines():
        if line.startswith("# HELP "):
            described.add(line.split()[2])
        elif not line.startswith("# TYPE "):
            assert SAMPLE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] in described
    assert len(described) > 25


@pytest.mark.parametrize(
    "line",
    [
        'hostctl_workload_info{workload="web",image="r/\\"web\\"\\\\:1",digest="sha256:0"} 1',
        'hostctl_workload_cpu_seconds_total{workload="web"} 1.5',
        'hostctl_workload_memory_bytes{workload="web"} 1048576',
        'hostctl_workload_healthy{workload="web"} 1',
        'hostctl_workload_start_time_seconds{workload="web"} 940',
        'hostctl_workload_pressure_seconds_total{workload="web",resource="io",kind="some"} 0.25',
        'hostctl_slot_running{release="1"} 0',
        'hostctl_slot_running{release="2"} 1',
        'hostctl_release_bad{release="3"} 1',
        'hostctl_update_failed{release="3",stage="root"} 1',
        'hostctl_state{state="degraded"} 0',
        'hostctl_filesystem_free_bytes{mount="/var"} 10',
        "hostctl_generation 7",
    ],
)
def test_what_is_told(line: str) -> None:
    assert line in metrics.render(FACTS).splitlines()


def test_no_limit_is_no_sample() -> None:
    assert "hostctl_workload_memory_limit_bytes" not in metrics.render(FACTS)


@pytest.fixture
def serving() -> Iterator[tuple[Server, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening, lambda: "the page\n", idle=1.0)
        thread = threading.Thread(target=server.until_idle)
        thread.start()
        yield server, f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(30)
        assert not thread.is_alive(), "it did not end when nobody asked"


def test_one_page_is_served_and_nothing_else(serving: tuple[Server, str]) -> None:
    _, url = serving
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own server
        assert answer.read() == b"the page\n"
        assert answer.headers["Content-Type"] == metrics.CONTENT_TYPE
    for path, method, status in (("/", "GET", 404), ("/../etc/passwd", "GET", 404), ("/metrics", "POST", 501)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{url}{path}", method=method, data=None), timeout=10)  # noqa: S310
        assert caught.value.code == status
        caught.value.close()


def test_silent_clients_keep_nobody_out_for_long(serving: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = serving
    monkeypatch.setattr(metrics_server, "CLIENT_SECONDS", 0.3)
    place = ("127.0.0.1", int(url.rpartition(":")[2]))
    silent = [socket.create_connection(place) for _ in range(metrics_server.AT_ONCE + 2)]
    for one in silent:
        one.sendall(b"GET /metrics HTTP/1.1\r\n")
    began = time.monotonic()
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own server
        assert answer.read() == b"the page\n"
    assert time.monotonic() - began < 8
    for one in silent:
        one.close()


def test_without_a_socket_it_says_so() -> None:
    for environment in (
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"},
    ):
        with pytest.raises(NoSocketError):
            metrics_server.inherited(environment, os.getpid())
