"""Boots a disk that a power cut left, through the firmware, and asks the host itself about the invariants."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl_qemu.attachment import PLAIN
from hostctl_qemu.checker import Expectation, Problem
from hostctl_qemu.machine import Forward, Machine, MachineConfig, free_port, make_overlay
from hostctl_qemu.ssh import Ssh
from hostctl_qemu.state import SSH_PORT
from hostctl_qemu.view import DiskView

from hostctl.errors import HostctlError
from hostctl_lab.canary import NAME, Canary
from hostctl_lab.host import BOOT_SECONDS, UPDATE_SECONDS, Host, WaitError
from hostctl_lab.resources import SCRIPT, held, leaked, listed
from hostctl_lab.server import RepositoryServer

VARIABLES = "vars.fd"
_SEPARATOR = "\n---\n"
_ASK = f"""hostctl status --json; echo; echo ---
sed -n 's/^IMAGE_VERSION=//p' /usr/lib/os-release; echo; echo ---
dmsetup table root; echo; echo ---
{SCRIPT}"""
"""In one go: every command over SSH costs a second under emulation."""
Retry = Literal["no", "must", "refused"]
HEALTHY_SECONDS = 120.0  # what I5 gives a workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Booted:
    """How a host came back: its release (none if it did not), seconds to it and to a working workload."""

    release: str | None
    seconds: float
    working: float
    problems: tuple[Problem, ...]
    retried: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a run began."""

    config: MachineConfig
    """Its machine; the folder has the key for SSH and the firmware's variables."""
    raw: Path
    """Its disk."""
    resources: tuple[str, ...]
    """What it held, see :func:`hostctl_lab.resources.held`."""
    repositories: Mapping[str, Path]
    """Repository to take each release from."""


def machine_on(origin: Origin, disk: DiskView, folder: Path) -> MachineConfig:
    """Write a disk out and return the machine that boots it, with the firmware as it was when the run began."""
    folder.mkdir(parents=True)
    raw = folder / "disk.raw"
    disk.save(origin.raw, raw)
    make_overlay(raw, "raw", folder / "disk.qcow2")
    shutil.copyfile(origin.config.folder / VARIABLES, folder / VARIABLES)
    return dataclasses.replace(
        origin.config,
        disk=folder / "disk.qcow2",
        folder=folder,
        forwards=(Forward(host_port=free_port(), guest_port=SSH_PORT),),
        attachment=PLAIN,
    )


class Judge:
    """Asks hosts that come back, with the servers of their run."""

    def __init__(self, origin: Origin, server: RepositoryServer, canary: Canary) -> None:
        self._origin = origin
        self._server = server
        self.canary = canary

    def boot(
        self, config: MachineConfig, wanted: Expectation, safe: int, *, expected: str | None, retry: Retry = "no"
    ) -> Booted:
        """Boot a machine and judge it; its power is cut at the end.

        Args:
            config: the machine.
            wanted: which releases may come up.
            safe: the number that its workload had been told is safe.
            expected: version that the offline checker said would come up; none if it was not asked.
            retry: take the update again, which must succeed, or must be refused without harm.
        """
        told: list[tuple[int, float]] = []
        start = time.monotonic()
        self.canary.watcher = lambda number: told.append((number, time.monotonic() - start))
        with Machine.start(config) as machine:
            host = Host(machine=machine, ssh=Ssh(folder=self._origin.config.folder, port=_port(config)))
            try:
                host.ssh.wait_ready(3 * BOOT_SECONDS)
                up = time.monotonic() - start
                host.wait_booted()
                release, problems = self._ask(host, wanted, expected, safe, told)
                working = told[0][1] if told else 0.0
                if retry == "must" and not problems:
                    problems = self._retry(host, wanted)
                elif retry == "refused" and not problems:
                    problems = self._refused(host, wanted)
            except (HostctlError, WaitError) as error:
                text = f"{error}\n{host.serial_tail()}"
                return Booted(
                    release=None,
                    seconds=time.monotonic() - start,
                    working=0.0,
                    problems=(Problem(invariant="I1", text=text),),
                )
        return Booted(release=release, seconds=up, working=working, problems=tuple(problems), retried=retry == "must")

    def _ask(
        self, host: Host, wanted: Expectation, expected: str | None, safe: int, told: list[tuple[int, float]]
    ) -> tuple[str, list[Problem]]:
        """Return the release that runs, and which invariants do not hold."""
        found: list[Problem] = []

        def broken(invariant: str, text: str) -> None:
            found.append(Problem(invariant=invariant, text=text))

        status, inside, mapped, resources = host.shell(_ASK, seconds=2 * HEALTHY_SECONDS).split(_SEPARATOR)
        release = str(json.loads(status)["release"])
        if release not in (wanted.old, wanted.new):
            broken("I1", f"release {release} came up")
        if inside.strip().strip('"') != release or " verity " not in mapped:
            broken("I2", f"status says {release}, the root {inside}")
        if expected is not None and expected != release:
            broken("I2", f"the checker said that {expected} would come up, {release} did")
        if not told:
            self.canary.wait_next(HEALTHY_SECONDS)
        if not told:
            state = host.run("systemctl", "status", "--no-pager", f"workload-{NAME}.service", check=False).text
            broken("I5", f"the workload does not work: {state}")
        elif told[0][0] <= safe:
            broken("I6", f"the workload went on with {told[0][0]}, it had been told that {safe} is safe")
        more = [line for line in leaked(self._origin.resources, listed(resources)) if not line.startswith("file /efi")]
        if more:
            broken("I8", f"more than before: {', '.join(more)}")
        return release, found

    def _refused(self, host: Host, wanted: Expectation) -> list[Problem]:
        """Ask for the update, which must not be taken, for a reason that is told."""
        self._server.folder = self._origin.repositories[wanted.new]
        before = host.entries()
        said = host.fails("hostctl", "update", "--despite-hold", seconds=UPDATE_SECONDS)
        if "Traceback" in said or host.entries() != before:
            return [Problem(invariant="I10", text=said)]
        return []

    def _retry(self, host: Host, wanted: Expectation) -> list[Problem]:
        """Take the update once more; what the cut left over must be gone after it."""
        if host.status()["release"] == wanted.new:
            host.wait_blessed()
            return []
        self._server.folder = self._origin.repositories[wanted.new]
        outcome = host.update_events("--despite-hold")[-1]
        if outcome["staged"] != wanted.new:
            said = json.dumps([outcome, host.history()])
            return [Problem(invariant="I7", text=f"a retry does not bring release {wanted.new}: {said}")]
        more = leaked(self._origin.resources, held(host))
        return [Problem(invariant="I8", text=f"after a retry more than before: {', '.join(more)}")] if more else []


def _port(config: MachineConfig) -> int:
    return config.forwards[0].host_port
