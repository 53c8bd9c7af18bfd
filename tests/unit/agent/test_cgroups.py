"""What is read of the kernel's counters, from texts as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import cgroups, usage
from hostctl.agent.cgroups import NoCgroupError, Pressure, Usage
from hostctl.agent.usage import Sample

FILES = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nthrottled_usec 1500000\n",
    "memory.current": "20971520\n",
    "memory.peak": "31457280\n",
    "memory.max": "67108864\n",
    "memory.stat": "anon 10485760\nfile 10485760\ninactive_file 4194304\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n",
    "memory.swap.current": "0\n",
    "pids.current": "7\n",
    "pids.max": "max\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=2\n",
    "memory.pressure": "some avg10=12.50 avg60=1.00 avg300=0.00 total=2000000\n"
    "full avg10=3.25 avg60=0.00 avg300=0.00 total=500000\n",
    "cgroup.procs": "12\n11\n",
}
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  999999     100    0    0    0     0          0         0   999999     100    0    0    0     0       0          0
  eth0: 1234567     900    0    0    0     0          0         0   7654321     800    0    0    0     0       0          0
"""  # noqa: E501 - as the kernel writes it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/cgroup.procs").write_text("30\n0\n")
    return tmp_path


def test_all_counters_are_read(folder: Path) -> None:
    net_dev = folder / "dev"
    net_dev.write_text(NET_DEV)
    found = cgroups.read(folder, net_dev)
    assert (found.cpu_seconds, found.throttled_seconds) == (2.5, 1.5)
    assert (found.memory, found.memory_cache, found.memory_peak) == (20971520, 4194304, 31457280)
    assert (found.memory_limit, found.oom_kills, found.pids, found.pids_limit) == (67108864, 2, 7, None)
    assert (found.read_bytes, found.written_bytes) == (4097, 8194)
    assert (found.received_bytes, found.sent_bytes) == (1234567, 7654321)
    assert found.pressure["memory"] == Pressure(some=12.5, full=3.25, some_seconds=2.0, full_seconds=0.5)
    assert found.pressure["cpu"] == Pressure()


def test_a_workload_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    found = cgroups.read(tmp_path / "none", tmp_path / "no-net")
    assert found == Usage(pressure=dict.fromkeys(cgroups.RESOURCES, Pressure()))
    assert cgroups.processes(tmp_path / "none") == ()


@pytest.mark.parametrize("text", ["", "max", "-1", "a b c\n1", "x" * 10000, "eth0: \n", "some avg10=\n", ":::\n"])
def test_torn_texts_are_no_numbers(text: str) -> None:
    assert cgroups.limit(text) is None
    assert all(isinstance(value, int) for value in cgroups.numbers(text).values())
    assert cgroups.network_bytes(text) == (0, 0)
    assert cgroups.io_bytes(text) == (0, 0)


def test_processes_of_groups_below_count(folder: Path) -> None:
    assert cgroups.processes(folder) == (11, 12, 30)


def test_the_cgroup_is_that_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("1:cpu:/x\n0::/system.slice/workload-site.service\n")
    assert cgroups.cgroup_of(7, tmp_path) == tmp_path / "sys/fs/cgroup/system.slice/workload-site.service"
    (tmp_path / "proc/7/cgroup").write_text("1:cpu:/x\n")
    with pytest.raises(NoCgroupError):
        cgroups.cgroup_of(7, tmp_path)


def test_rates_are_those_between_two_samples() -> None:
    before = Sample(at=10.0, workloads={"web": Usage(cpu_seconds=1.0), "gone": Usage(cpu_seconds=9.0)})
    new = Usage(cpu_seconds=2.0, memory=100, memory_cache=40, memory_limit=120, pids=3)
    again = Usage(cpu_seconds=0.5)
    after = Sample(at=12.0, workloads={"web": new, "app": again})
    app, web = usage.figures(before, after, host_memory=1000)
    assert (web.name, web.cpu, web.memory, web.memory_limit, web.memory_percent, web.pids) == (
        "web",
        50,
        60,
        120,
        50,
        3,
    )
    assert (app.name, app.cpu, app.memory_limit) == ("app", 25, 1000)
    restarted = Sample(at=14.0, workloads={"web": Usage(cpu_seconds=0.2)})
    assert usage.figures(after, restarted, 1000)[0].cpu == pytest.approx(10)
