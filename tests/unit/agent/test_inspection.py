"""A workload in Docker's words."""

from __future__ import annotations

from hostctl.agent import inspection
from hostctl.agent.network_view import NetworkView, Place
from hostctl.agent.overview import WorkloadStatus

STATUS = WorkloadStatus(
    name="web",
    image="r.example/web:1",
    digest="sha256:0",
    state="active",
    sub="running",
    health="healthy",
    main_pid=42,
    restarts=2,
    up_for=5.0,
    ports=("8080:80", "127.0.0.1:53:53/udp"),
)
BUNDLE = {
    "hostname": "web",
    "process": {"user": {"uid": 33, "gid": 33}, "args": ["/dev/init", "--", "nginx"], "env": ["A=1"], "cwd": "/srv"},
    "root": {"readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/init", "type": "bind", "source": "/usr/bin/catatonit", "options": ["ro"]},
        {"destination": "/srv", "type": "bind", "source": "/var/lib/hostctl/volumes/content", "options": ["bind"]},
        {"destination": "/opt", "type": "bind", "source": "/var/lib/hostctl/volumes/tools", "options": ["bind", "ro"]},
    ],
}
SHOWN = {
    "InvocationID": "abc",
    "ExecMainStartTimestamp": "@1764171749",
    "ExecMainExitTimestamp": "",
    "MemoryMax": "67108864",
    "TasksMax": "infinity",
    "CPUQuotaPerSecUSec": "500ms",
    "Restart": "always",
    "ControlGroup": "/system.slice/workload-web.service",
}
NETWORK = (
    NetworkView(
        name="private",
        driver="bridge",
        subnet="10.88.0.0/16",
        gateway="10.88.0.1",
        workloads={"web": Place(address="10.88.0.2")},
    ),
)


def test_the_keys_of_docker_mean_the_same() -> None:
    found = inspection.describe(STATUS, BUNDLE, SHOWN, NETWORK)
    assert found["State"] == {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Pid": 42,
        "ExitCode": 0,
        "StartedAt": "2025-11-26T15:42:29Z",
        "FinishedAt": inspection.NEVER,
        "Health": {"Status": "healthy"},
    }
    limits = found["HostConfig"]
    assert isinstance(limits, dict)
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (67108864, 500_000_000, 0)
    assert limits["ReadonlyRootfs"] is True
    assert limits["PortBindings"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],  # noqa: S104 - Docker's word for all addresses
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
    }
    assert [(mount["Name"], mount["RW"]) for mount in inspection.mounts(BUNDLE)] == [
        ("content", True),
        ("tools", False),
    ]


def test_one_that_never_ran_has_no_times_and_no_network() -> None:
    found = inspection.describe(STATUS, {}, {}, ())
    assert found["NetworkSettings"] == {
        "IPAddress": "",
        "Gateway": "",
        "Networks": {},
        "Ports": inspection.port_bindings(STATUS.ports),
    }
    assert found["Mounts"] == []


def test_processor_quotas() -> None:
    for text, expected in (("1.5s", 1_500_000_000), ("1min 30s", 90_000_000_000), ("infinity", 0), ("", 0)):
        assert inspection.nano_cpus(text) == expected
    assert inspection.port_bindings(["[::1]:8443:443"]) == {"443/tcp": [{"HostIp": "::1", "HostPort": "8443"}]}
