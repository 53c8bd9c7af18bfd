"""One host that updates from release 1 to 2 and on to 9, in both directions between its slots, with all writes logged.

What a run leaves in its folder is enough to make, judge and boot any disk that a power cut in it might have left:
the disk before (`base.raw`), the log (`writes.log`), its moments (`recording.json`), firmware variables, the
repository, the key for SSH, and what the host's workload was told is safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl_qemu import snapshot
from hostctl_qemu.accelerator import choose
from hostctl_qemu.attachment import Attachment
from hostctl_qemu.blocklog import Request, read_log
from hostctl_qemu.checker import Expectation
from hostctl_qemu.machine import Firmware, Forward, Machine, MachineConfig, free_port, make_overlay
from hostctl_qemu.recording import Mark, Recorder, Recording
from hostctl_qemu.replay import CrashState, Replay
from hostctl_qemu.snapshot import MEMORY_FILE, Snapshot
from hostctl_qemu.ssh import Ssh, SshError, make_key
from hostctl_qemu.state import SSH_PORT, credentials, make_config
from hostctl_qemu.view import make_raw, open_disk

from hostctl.compose.lock import cache_folder
from hostctl.compose.manifest import load_manifest
from hostctl.durable import write_file
from hostctl.run import run
from hostctl_lab import releases
from hostctl_lab.canary import Canary
from hostctl_lab.crash_boot import Origin
from hostctl_lab.host import BOOT_SECONDS, UPDATE_SECONDS, Host
from hostctl_lab.releases import NAME, Lab, Spec
from hostctl_lab.resources import held
from hostctl_lab.server import RepositoryServer

MEMORY = 1024
COMPARE_SECONDS = 600.0
BASE_RAW, LOG, RECORDING, FACTS = "base.raw", "writes.log", "recording.json", "facts.json"
DECLARATION = "host.yaml"
NEXT, THIRD = (dataclasses.replace(spec, tries=3) for spec in (releases.NEXT, releases.THIRD))
"""With as many tries as releases have by default: of one with a single try a power cut in that boot is the end."""
DIRECTIONS: tuple[tuple[Spec, Spec], ...] = ((releases.BASE, NEXT), (NEXT, THIRD))


class ScenarioError(AssertionError):
    """A recording does not hold what it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What else is remembered of a run."""

    name: str
    """Of the image."""
    repository_port: int
    canary_port: int
    safe: tuple[tuple[int, int], ...]
    """Lengths of the log, each with the number that the workload had been told is safe by then."""
    resources: tuple[str, ...]
    """What the host held before the first update, see :func:`hostctl_lab.resources.held`."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One of a run's updates."""

    label: str
    expectation: Expectation
    begin: Mark
    end: Mark


def declaration(repository: RepositoryServer, canary: Canary, key: str) -> str:
    """Return the host.yaml of the host whose power is cut."""
    return f"""\
version: 1
hostname: web-1
users:
  ops: {{ssh_keys: ["{key}"], sudo: true}}
update: {{repository: "{repository.url}", channel: stable}}
health:
  probe: {{unit: probe.service, within: 60s}}
{canary.declaration()}"""


def first_boot(lab: Lab, folder: Path, text: str) -> Snapshot:
    """Return release 1 with its declaration in force, booted through the firmware and blessed; it has a stage port."""
    build = lab.build(releases.BASE)
    config = make_config(
        build,
        load_manifest(build),
        folder,
        cache=cache_folder(),
        memory=MEMORY,
        declaration=text.encode(),
    )
    machine = Machine.start(dataclasses.replace(config, stages=True))
    try:
        host = Host(machine=machine, ssh=Ssh(folder=folder, port=config.forwards[0].host_port))
        host.wait_booted(2 * BOOT_SECONDS)
        host.wait_blessed()
        host.run("hostctl", "hold", "--reason", "updates are started by the test")
        host.run("sync")
        return snapshot.take(machine)
    except BaseException:
        machine.power_cut()
        raise


class Scenario:
    """A recorded run, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        document = json.loads((folder / FACTS).read_bytes())
        self.facts = Facts(
            **{
                **document,
                "safe": tuple((size, number) for size, number in document["safe"]),
                "resources": tuple(document["resources"]),
            }
        )
        self.recording = Recording.load(folder / RECORDING)
        self.requests: tuple[Request, ...] = tuple(read_log(folder / LOG, strict=True))
        self.replay = Replay(open_disk(folder / BASE_RAW), folder / LOG, self.requests)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Return the updates of the run, in order."""
        return tuple(
            Direction(
                label=f"{old.version}-{new.version}",
                expectation=Expectation(name=self.facts.name, old=old.version, new=new.version),
                begin=self.recording.mark(f"{old.version}-{new.version} begin"),
                end=self.recording.mark(f"{old.version}-{new.version} end"),
            )
            for old, new in DIRECTIONS
        )

    @property
    def base(self) -> Snapshot:
        """Return the machine that the run went on from."""
        folder = self.folder / "base"
        config = MachineConfig(
            disk=folder / "disk.qcow2",
            folder=folder,
            boot=Firmware(),
            accelerator=choose(folder / "kernel", cache_folder()),
            memory=MEMORY,
            credentials=credentials(folder, (folder / DECLARATION).read_bytes()),
            stages=True,
        )
        return Snapshot(config=config, memory=folder / MEMORY_FILE)

    @property
    def origin(self) -> Origin:
        """Return where the run began."""
        return Origin(
            config=self.base.config,
            raw=self.folder / BASE_RAW,
            resources=self.facts.resources,
            repositories={new.version: self.folder / f"repository-{new.version}" for _, new in DIRECTIONS},
        )

    def safe_number(self, log_bytes: int) -> int:
        """Return the number that the workload could rely on when the log had this length."""
        return max((number for size, number in self.facts.safe if size <= log_bytes), default=0)

    def check(self) -> None:
        """Compare the disk that the whole log makes with the one that the run left.

        Raises:
            ScenarioError: they differ, so that no state made from the log can be trusted.
        """
        made, left = self.folder / "whole.raw", self.folder / "run/disk.qcow2"
        state = CrashState(kind="flush", durable=len(self.requests))
        self.replay.disk(state).save(self.folder / BASE_RAW, made)
        done = run(
            ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", made, left], timeout=COMPARE_SECONDS, check=False
        )
        made.unlink()
        if done.status:
            raise ScenarioError(f"the log does not make the disk that was left: {done.text}")


@contextmanager
def servers(folder: Path, facts: Facts | None = None) -> Iterator[tuple[RepositoryServer, Canary]]:
    """Run the repository's server and the canary's, on the ports of a recorded run or on any."""
    repository_port = facts.repository_port if facts else 0
    with (
        RepositoryServer(folder / "repository", repository_port) as server,
        Canary(facts.canary_port if facts else 0) as canary,
    ):
        yield server, canary


def publish(lab: Lab, folder: Path) -> None:
    """Make a repository for each direction: one where the update is the newest, and all that came before."""
    for index, (_, new) in enumerate(DIRECTIONS):
        target = folder / f"repository-{new.version}"
        if index:
            shutil.copytree(folder / f"repository-{DIRECTIONS[index - 1][1].version}", target)
        lab.publish(target, new)


def record(lab: Lab, folder: Path) -> Scenario:
    """Make a run, in an empty folder, and return it checked."""
    base = folder / "base"
    base.mkdir(parents=True)
    publish(lab, folder)
    with servers(folder) as (server, canary):
        text = declaration(server, canary, make_key(base))
        write_file(base / DECLARATION, text.encode())
        taken = first_boot(lab, base, text)
        make_raw(taken.config.disk, "qcow2", folder / BASE_RAW)
        make_overlay(folder / BASE_RAW, "raw", taken.config.disk)  # the build may be removed, this stays
        port = free_port()
        forwards = (Forward(host_port=port, guest_port=SSH_PORT),)
        machine = snapshot.restore(taken, folder / "run", forwards, Attachment(log=folder / LOG))
        with machine:
            host = Host(machine=machine, ssh=Ssh(folder=base, port=port))
            resources = held(host)
            safe, recording = _update_twice(host, folder, server, canary)
            machine.quit()
    recording.save(folder / RECORDING)
    facts = Facts(
        name=NAME, repository_port=server.port, canary_port=canary.port, safe=tuple(safe), resources=resources
    )
    write_file(folder / FACTS, json.dumps(asdict(facts)).encode())
    scenario = Scenario(folder)
    scenario.check()
    return scenario


def _update_twice(
    host: Host, folder: Path, server: RepositoryServer, canary: Canary
) -> tuple[list[tuple[int, int]], Recording]:
    recorder = Recorder(host.machine, "")
    safe: list[tuple[int, int]] = []
    log = folder / LOG
    canary.watcher = lambda number: safe.append((log.stat().st_size, number))
    for old, new in DIRECTIONS:
        server.folder = folder / f"repository-{new.version}"
        recorder.prefix = f"{old.version}-{new.version}"
        host.ssh.wait_ready(BOOT_SECONDS)
        before = host.boot_id()
        recorder.mark("begin")
        with contextlib.suppress(SshError):  # the reboot may be faster than the command's end
            host.run("hostctl", "update", "--despite-hold", "--reboot", seconds=UPDATE_SECONDS)
        host.wait_release(new.version, before, 2 * BOOT_SECONDS)
        host.wait_blessed()
        assert canary.wait_next(120), "the workload writes after the update"
        host.run("sync")
        recorder.mark("end")
    return safe, recorder.stop()
