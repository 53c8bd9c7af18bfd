"""Declared workloads: pulled or baked in, confined, limited, reached from outside, run without any program of ours."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from hostctl_lab.host import Host
from hostctl_lab.registry import Registry

PAGE = "a page from inside"
BOX = "/usr/bin/busybox"
PYTHON = "/usr/bin/python3"
NAMESPACES = ("user", "pid", "mnt", "ipc", "uts", "net", "cgroup")
HOG = f"{BOX} sleep 2; echo allocating; {BOX} dd if=/dev/zero of=/dev/null bs=200M count=1; {BOX} sleep 1000"
READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def wanted(declaration: str, registry: Registry) -> str:
    """Return a declaration of one workload whose image is pulled, and one whose image came with the release."""
    return f"""{declaration}\
registries: {{"{registry.guest_address}": {{insecure: true}}}}
workloads:
  web:
    image: {registry.guest_address}/box:1
    ports: ["8080:80"]
    memory: 64M
    pids: 50
    read_only: true
  baked:
    image: localhost/box:1
    command: [{BOX}, sleep, "1000000"]
    env: {{GREETING: hello}}
    user: 1000:1000
"""


def show(host: Host, workload: str, *properties: str) -> Mapping[str, str]:
    """Return properties of a workload's unit."""
    said = host.text("systemctl", "show", f"workload-{workload}.service", "-p", ",".join(properties))
    return dict(line.split("=", 1) for line in said.splitlines())


def inside(host: Host, workload: str, *argv: str) -> str:
    """Return what a command prints inside a workload."""
    return host.text("hostctl", "exec", workload, "--", *argv)


def test_a_workload_is_pulled_and_answers_from_outside(host: Host, wanted: str, registry: Registry) -> None:
    said = host.apply(wanted)
    assert "generation 2 is in force" in said
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    rows = {row["name"]: row for row in json.loads(host.text("hostctl", "ps", "--json"))}
    assert (rows["web"]["state"], rows["baked"]["state"]) == ("active", "active")
    images = {row["reference"] for row in json.loads(host.text("hostctl", "images", "--json"))["images"]}
    assert images == {f"{registry.guest_address}/box:1", "localhost/box:1"}


def test_the_declared_process_runs(host: Host) -> None:
    assert inside(host, "baked", BOX, "id") == "uid=1000 gid=1000"
    variables = inside(host, "baked", BOX, "env").splitlines()
    assert {"GREETING=hello", "COLOUR=blue"} <= set(variables)
    assert host.run("hostctl", "exec", "baked", "--", BOX, "sh", "-c", "exit 7", check=False).status == 7


def test_every_namespace_is_its_own(host: Host) -> None:
    for name in NAMESPACES:
        path = f"/proc/self/ns/{name}"
        kinds = {host.text("readlink", path), inside(host, "web", BOX, "readlink", path)}
        kinds.add(inside(host, "baked", BOX, "readlink", path))
        assert len(kinds) == 3, f"shared: {name} {kinds}"


def test_a_workload_is_nobody_on_the_host(host: Host) -> None:
    process = show(host, "web", "MainPID")["MainPID"]
    status = dict(line.split(":", 1) for line in host.text("cat", f"/proc/{process}/status").splitlines())
    assert int(status["Uid"].split()[0]) >= 1 << 16
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert "Read-only file system" in host.fails("hostctl", "exec", "web", "--", BOX, "touch", "/new")
    host.fails("hostctl", "exec", "web", "--", BOX, "mount", "-t", "tmpfs", "none", "/srv")


def test_nobody_of_the_host_gets_at_what_a_workload_has_written(host: Host) -> None:
    inside(host, "baked", BOX, "touch", "/tmp/open")
    written = ("/run/hostctl/workloads/baked/rootfs", "/var/lib/hostctl/workloads/baked/upper", "/run/hostctl/layers")
    for path in (*written, "/run/hostctl/workloads/baked/rootfs/tmp/open"):
        host.text("ls", path)
        done = host.run("ls", path, user="ops", check=False)
        assert (done.status, b"Permission denied" in done.stderr) == (2, True)
    rows = {row["name"]: row["state"] for row in json.loads(host.run("hostctl", "ps", "--json", user="ops").text)}
    assert rows["baked"] == "active"
    inside(host, "baked", BOX, "rm", "/tmp/open")


def test_an_unchanged_workload_is_not_restarted(host: Host, wanted: str) -> None:
    before = {name: show(host, name, "InvocationID") for name in ("web", "baked")}
    host.apply(wanted.replace("GREETING: hello", "GREETING: goodbye"))
    assert show(host, "web", "InvocationID") == before["web"]
    assert show(host, "baked", "InvocationID") != before["baked"]
    assert "GREETING=goodbye" in inside(host, "baked", BOX, "env")


def test_more_memory_than_declared_kills_that_workload_alone(host: Host, wanted: str, registry: Registry) -> None:
    hog = f'  hog:\n    image: localhost/box:1\n    command: [{BOX}, sh, -c, "{HOG}"]\n    memory: 64M\n'
    host.apply(f"{wanted}{hog}    restart: always\n")
    before = show(host, "web", "InvocationID")
    host.wait_for("the hog has been restarted", lambda: int(show(host, "hog", "NRestarts")["NRestarts"]) >= 1, 120)
    kernel = host.text("journalctl", "-k", "-b", "--no-pager", "-g", "Memory cgroup out of memory")
    assert "busybox" in kernel
    assert "oom-kill" in host.text("journalctl", "-u", "workload-hog.service", "--no-pager")
    assert "allocating" in host.text("hostctl", "logs", "hog")
    assert show(host, "web", "InvocationID") == before
    assert PAGE in host.get()
    host.apply(wanted)
    assert host.run("systemctl", "cat", "workload-hog.service", check=False).status != 0
    assert sorted(host.text("crun", "list", "-q").split()) == ["baked", "web"]
    host.wait_for("its mounts are gone", lambda: "/hog/" not in host.text("cat", "/proc/mounts"), READY_SECONDS)


@contextmanager
def without_python(host: Host) -> Iterator[None]:
    """Let no Python run on the host meanwhile."""
    program = host.text("readlink", "-f", PYTHON)
    host.shell(f": > /run/no-program; mount --bind /run/no-program {program}")
    try:
        host.fails(PYTHON, "-c", "")
        yield
    finally:
        host.text("umount", program)


def test_starting_and_stopping_run_no_python(host: Host) -> None:
    with without_python(host):
        host.text("systemctl", "restart", "workload-web.service")
        host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
        host.text("systemctl", "stop", "workload-web.service")
        assert host.get() == ""
        assert "/run/hostctl/workloads/web/rootfs overlay ro," in host.text("cat", "/proc/mounts")
        host.text("systemctl", "start", "workload-web.service")
        host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    host.text("hostctl", "restart", "web")
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)


def test_every_run_has_a_fresh_root_and_one_that_is_lost_is_laid_anew(host: Host) -> None:
    rootfs, upper = "/run/hostctl/workloads/baked/rootfs", "/var/lib/hostctl/workloads/baked/upper"
    mine = ("baked", BOX, "ls", "/tmp")
    inside(host, "baked", BOX, "touch", "/tmp/mine")
    assert inside(host, *mine) == "mine"
    # Deeper than a program has files open.
    inside(host, "baked", BOX, "sh", "-c", f"cd /tmp; for i in $({BOX} seq 1200); do {BOX} mkdir a && cd a; done")
    with without_python(host):
        host.text("systemctl", "restart", "workload-baked.service")
    assert inside(host, *mine) == ""
    inside(host, "baked", BOX, "touch", "/tmp/mine")
    host.text("systemctl", "stop", "workload-baked.service")
    assert host.text("find", upper, "-type", "f") == ""
    host.text("umount", rootfs)
    host.run("systemctl", "start", "workload-baked.service", check=False)  # fails, and is tried again a moment later
    host.wait_for("it runs", lambda: show(host, "baked", "SubState")["SubState"] == "running", READY_SECONDS)
    assert inside(host, *mine) == ""
    assert [line for line in host.text("cat", "/proc/mounts").splitlines() if f" {rootfs} " in line][1:] == []


def test_an_image_that_cannot_be_had_changes_nothing(host: Host, wanted: str, registry: Registry) -> None:
    before = host.text("readlink", "/var/lib/hostctl/current")
    said = host.fails("hostctl", "apply", "-", stdin=wanted.replace("box:1\n    ports", "absent:1\n    ports"))
    assert f"{registry.guest_address}/absent:1" in said
    assert host.text("readlink", "/var/lib/hostctl/current") == before
    assert PAGE in host.get()


def test_workloads_come_back_after_a_power_cut(host: Host) -> None:
    host.run("sync")
    host.power_cycle()
    host.wait_booted()
    host.wait_for("the page is served", lambda: PAGE in host.get(), READY_SECONDS)
    assert "GREETING=hello" in inside(host, "baked", BOX, "env")
    assert host.text("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
