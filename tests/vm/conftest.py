"""Fixtures of the tests with virtual machines: built releases, one booted host that others go on from, one server."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hostctl_lab import releases
from hostctl_lab.damage import Disk, PowerOn
from hostctl_lab.host import BOOT_SECONDS, Host
from hostctl_lab.registry import Registry, run_registry
from hostctl_lab.releases import Lab
from hostctl_lab.server import RepositoryServer
from hostctl_qemu import snapshot
from hostctl_qemu.attachment import PLAIN, Attachment
from hostctl_qemu.machine import Forward, Machine, free_port, make_overlay
from hostctl_qemu.snapshot import Snapshot
from hostctl_qemu.ssh import Ssh, make_key
from hostctl_qemu.state import HOST_DECLARATION, SSH_PORT, make_config
from hostctl_qemu.view import make_raw

from hostctl.compose.lock import cache_folder
from hostctl.compose.manifest import load_manifest
from hostctl.run import run

MEMORY = 1024
WEB_PORT = 8080
RESTORE_SECONDS = 60.0
_hosts: list[Host] = []
"""Hosts that run now, to be asked when a test fails."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the console and the journal of the running hosts to the report of a test that failed."""
    report = yield
    if report.failed:
        for host in _hosts:
            report.sections.append(("virtual machine", f"{host.serial_tail()}\n{host.journal()}"))
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return the lab; only one run of the tests has it."""
    lab = Lab.default()
    with releases.only_one(lab.folder):
        lab.prune()
        yield lab


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RepositoryServer]:
    """Return a server of an empty folder; tests point it at theirs."""
    with RepositoryServer(tmp_path_factory.mktemp("empty")) as server:
        yield server


@pytest.fixture(scope="session")
def registry(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Return a registry that has the tests' image as ``box:1``."""
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        registry.push(f"oci-archive:{lab.image()}", "box:1")
        yield registry


@pytest.fixture(scope="session")
def ssh_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the key that all hosts know."""
    folder = tmp_path_factory.mktemp("ssh")
    make_key(folder)
    return folder


@pytest.fixture(scope="session")
def declaration(server: RepositoryServer, ssh_folder: Path) -> str:
    """Return the host.yaml that the first boot applies."""
    return f"""\
version: 1
hostname: web-1
users:
  ops: {{ssh_keys: ["{make_key(ssh_folder)}"], sudo: true}}
timezone: Europe/Berlin
sysctl:
  net.ipv4.tcp_keepalive_time: "600"
  kernel.kptr_restrict: "1"
files:
  /etc/motd: {{content: "first\\n"}}
update: {{repository: "{server.url}", channel: stable}}
health:
  probe: {{unit: probe.service, within: 20s}}
"""


@pytest.fixture(scope="session")
def booted(
    request: pytest.FixtureRequest,
    lab: Lab,
    declaration: str,
    ssh_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Snapshot]:
    """Return release 1 after its first boot through the firmware, with Secure Boot enrolled and the boot blessed."""
    build, folder = lab.build(releases.BASE), tmp_path_factory.mktemp("booted")
    make_config_folder(folder, ssh_folder)
    config = make_config(
        build,
        load_manifest(build),
        folder,
        cache=cache_folder(),
        memory=MEMORY,
        declaration=declaration.encode(),
    )
    credentials = {**config.credentials, "systemd.extra-unit.intruder.service": b"[Service]\nExecStart=/usr/bin/true\n"}
    machine = Machine.start(dataclasses.replace(config, stages=True, credentials=credentials))
    request.addfinalizer(machine.power_cut)  # at the very end: a host that does not come up is asked why
    host = Host(machine=machine, ssh=Ssh(folder=ssh_folder, port=config.forwards[0].host_port))
    _hosts.append(host)
    host.wait_booted(2 * BOOT_SECONDS)
    host.wait_blessed()
    taken = keep(host)
    yield taken
    taken.memory.unlink()
    taken.config.disk.unlink()


def make_config_folder(folder: Path, ssh_folder: Path) -> None:
    """Give a machine's folder the key that all hosts know, before one of its own is made."""
    for name in ("id_ed25519", "id_ed25519.pub"):
        (folder / name).write_bytes((ssh_folder / name).read_bytes())
        (folder / name).chmod(0o600)


@pytest.fixture(scope="session")
def go_on(ssh_folder: Path) -> Callable[..., Host]:
    """Return what starts a host of its own where a snapshot stopped, in an empty folder, with filters on its disk."""

    def start(taken: Snapshot, folder: Path, attachment: Attachment = PLAIN) -> Host:
        port, web = free_port(), free_port()
        ports = (Forward(host_port=port, guest_port=SSH_PORT), Forward(host_port=web, guest_port=WEB_PORT))
        machine = snapshot.restore(taken, folder, ports, attachment)
        host = Host(machine=machine, ssh=Ssh(folder=ssh_folder, port=port), web_port=web)
        _hosts.append(host)
        host.ssh.wait_ready(RESTORE_SECONDS)
        return host

    return start


@pytest.fixture(scope="session")
def off(booted: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the raw disk of the booted host, as a power cut left it."""
    raw = make_raw(booted.config.disk, "qcow2", tmp_path_factory.mktemp("off") / "disk.raw")
    yield raw
    raw.unlink()


@pytest.fixture
def power_on(booted: Snapshot, off: Path, tmp_path: Path, ssh_folder: Path) -> Iterator[PowerOn]:
    """Return what starts a host of its own after a change to its disk."""
    started: list[Host] = []

    def start(change: Callable[[Disk], None], declared: str = "") -> Host:
        folder, raw, port = tmp_path / "host", tmp_path / "disk.raw", free_port()
        folder.mkdir(mode=0o700)
        run(["cp", "--sparse=always", "--reflink=auto", off, raw])
        change(Disk(raw))
        make_overlay(raw, "raw", folder / "disk.qcow2")
        shutil.copyfile(booted.config.folder / "vars.fd", folder / "vars.fd")
        ports = (Forward(host_port=port, guest_port=SSH_PORT),)
        config = dataclasses.replace(booted.config, disk=folder / "disk.qcow2", folder=folder, forwards=ports)
        if declared:
            credentials = {**config.credentials, HOST_DECLARATION: declared.encode()}
            config = dataclasses.replace(config, credentials=credentials)
        host = Host(machine=Machine.start(config), ssh=Ssh(folder=ssh_folder, port=port))
        started.append(host)
        _hosts.append(host)
        return host

    yield start
    for host in started:
        end(host)
        (tmp_path / "disk.raw").unlink()


@pytest.fixture(scope="session")
def next_repository(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with release 2."""
    return lab.publish(tmp_path_factory.mktemp("next") / "repository", releases.NEXT)


@pytest.fixture
def serving_next(server: RepositoryServer, next_repository: Path) -> Iterator[None]:
    """Serve release 2 unless a test serves something else."""
    server.folder = next_repository
    yield
    if server.hold is not None:
        server.hold.release.set()
    server.hold = None


@pytest.fixture(scope="session")
def updated(
    request: pytest.FixtureRequest,
    booted: Snapshot,
    go_on: Callable[..., Host],
    next_repository: Path,
    server: RepositoryServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Snapshot]:
    """Return the host after its update to release 2, which has booted and is blessed."""
    host = go_on(booted, tmp_path_factory.mktemp("updated"))
    request.addfinalizer(host.machine.power_cut)
    server.folder = next_repository
    assert host.update() == {"running": "1", "staged": "2", "written": True}
    assert "vmtest_2+1.efi" in host.entries()
    assert host.update() == {"running": "1", "staged": "2", "written": False}
    host.reboot_into("2")
    host.wait_blessed()
    taken = keep(host)
    yield taken
    taken.memory.unlink()
    taken.config.disk.unlink()


@pytest.fixture(scope="module")
def host(booted: Snapshot, go_on: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return the host that the tests of one file share, in the order in which they stand."""
    host = go_on(booted, tmp_path_factory.mktemp("host"))
    yield host
    end(host)


@pytest.fixture
def own_host(booted: Snapshot, go_on: Callable[..., Host], tmp_path: Path) -> Iterator[Host]:
    """Return a host for one test, on release 1."""
    host = go_on(booted, tmp_path / "host")
    yield host
    end(host)


@pytest.fixture
def updated_host(updated: Snapshot, go_on: Callable[..., Host], tmp_path: Path) -> Iterator[Host]:
    """Return a host for one test, updated from release 1 to 2."""
    host = go_on(updated, tmp_path / "host")
    yield host
    end(host)


def keep(host: Host) -> Snapshot:
    """Turn a host that is well into a snapshot."""
    host.run("sync")
    _hosts.remove(host)
    return snapshot.take(host.machine)


def end(host: Host) -> None:
    """Cut a host's power and remove its disk."""
    host.machine.power_cut()
    _hosts.remove(host)
    host.machine.config.disk.unlink()
