"""One host in a virtual machine, asked over SSH. Every wait has a deadline and says what it waited for."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException

from hostctl_qemu.machine import Machine
from hostctl_qemu.ssh import Ssh, SshError

from hostctl.boot.slots import EMPTY
from hostctl.errors import HostctlError
from hostctl.run import CommandTimeoutError, Completed, tail

BOOT_SECONDS = 300.0  # firmware to SSH, under emulation on a machine that has other work as well
POLL_SECONDS = 2.0
UPDATE_SECONDS = 600.0
SERIAL_LINES = 60


class WaitError(AssertionError):
    """What was waited for did not happen."""


@dataclass(slots=True, kw_only=True)
class Host:
    """A machine and the way to it."""

    machine: Machine
    ssh: Ssh
    web_port: int = 0
    """Port of this machine that leads to the guest's 8080."""

    def run(
        self, *argv: str, stdin: str | None = None, seconds: float = 120.0, check: bool = True, user: str = "root"
    ) -> Completed:
        """Run a command as ``user``; see :meth:`hostctl_qemu.ssh.Ssh.run`."""
        data = stdin.encode() if stdin is not None else None
        return replace(self.ssh, user=user).run(argv, stdin=data, seconds=seconds, check=check)

    def text(self, *argv: str, stdin: str | None = None, seconds: float = 120.0) -> str:
        """Return what a command printed, without the last line's end."""
        return self.run(*argv, stdin=stdin, seconds=seconds).text.rstrip("\n")

    def fails(self, *argv: str, stdin: str | None = None, seconds: float = 120.0) -> str:
        """Return what a command printed that must fail."""
        done = self.run(*argv, stdin=stdin, seconds=seconds, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.status, f"{' '.join(argv)} succeeded:\n{said}"
        return said

    def shell(self, script: str, *, seconds: float = 120.0) -> str:
        """Return what a shell script printed."""
        return self.text("sh", "-euc", script, seconds=seconds)

    def apply(self, declaration: str, *, seconds: float = 180.0) -> str:
        """Apply a declaration."""
        return self.text("hostctl", "apply", "-", stdin=declaration, seconds=seconds)

    def status(self) -> Mapping[str, object]:
        """Return `hostctl status`."""
        document: Mapping[str, object] = json.loads(self.text("hostctl", "status", "--json"))
        return document

    def history(self) -> tuple[tuple[str, str, str], ...]:
        """Return `hostctl history` as events, versions and causes."""
        rows = json.loads(self.text("hostctl", "history", "--json"))
        return tuple((row["event"], row["version"], row["cause"]) for row in rows)

    def events(self, event: str, version: str) -> list[dict[str, object]]:
        """Return what the history says of a release, whole."""
        rows: list[dict[str, object]] = json.loads(self.text("hostctl", "history", "--json"))
        return [row for row in rows if (row["event"], row["version"]) == (event, version)]

    def happened(self, event: str, version: str) -> bool:
        """Tell whether the history has an event of a release."""
        return any(row[:2] == (event, version) for row in self.history())

    def update(self) -> Mapping[str, object]:
        """Run `hostctl update` and return what runs, what is staged, and whether anything was written."""
        outcome = self.update_events()[-1]
        return {key: outcome[key] for key in ("running", "staged", "written")}

    def update_events(self, *options: str) -> list[Mapping[str, object]]:
        """Run `hostctl update` and return all that it told; the last is the outcome."""
        lines = self.text("hostctl", "update", "--json", *options, seconds=UPDATE_SECONDS).splitlines()
        events: list[Mapping[str, object]] = [json.loads(line) for line in lines]
        assert events[-1]["event"] == "outcome"
        return events

    def get(self, path: str = "/") -> str:
        """Return what the guest's port 8080 answers, asked from outside, or nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except (OSError, HTTPException):
            return ""

    def boot_id(self) -> str:
        """Return what is different after every boot."""
        return self.text("cat", "/proc/sys/kernel/random/boot_id")

    def disk_state(self) -> str:
        """Return what decides what is booted: the partitions, and the ESP with sums of its files.

        An empty slot gets fresh UUIDs whenever something is about to be written to it; those decide nothing.
        """
        parts = json.loads(self.text("sfdisk", "--json", "/dev/vda"))["partitiontable"]["partitions"]
        table = [{key: value for key, value in part.items() if key != "uuid" or not empty(part)} for part in parts]
        listing = self.shell("cd /efi && find . -type f -exec sha256sum {} + | sort -k2")
        return f"{json.dumps(table, indent=1, sort_keys=True)}\n{listing}"

    def entries(self) -> list[str]:
        """Return the names of the boot entries."""
        return self.shell("ls /efi/EFI/Linux").split()

    def wait_booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Return once SSH works and the boot is complete, successfully or not.

        `is-system-running --wait` ends with the boot, so that nothing is polled.
        """
        self.ssh.wait_ready(seconds)
        self.run("systemctl", "is-system-running", "--wait", seconds=seconds, check=False)

    def wait_for(self, what: str, seen: Callable[[], bool], seconds: float) -> None:
        """Return once ``seen`` says so; a machine that cannot be asked has not done it yet.

        Raises:
            WaitError: not within ``seconds``.
        """
        end, last = time.monotonic() + seconds, "it was not seen"
        while (left := end - time.monotonic()) > 0:
            try:
                self.ssh.wait_ready(left)
                if seen():
                    return
            except (SshError, CommandTimeoutError) as error:
                last = error.details or error.brief
            except HostctlError as error:  # a command that a shutdown cut off
                last = error.details or error.brief
            time.sleep(POLL_SECONDS)  # the guest has no event to tell from outside
        raise WaitError(f"waited {seconds:g} s until {what}: {last}\n{self.serial_tail()}")

    def reboot_into(self, release: str, *command: str, seconds: float = BOOT_SECONDS) -> None:
        """Reboot, by ``command`` if one is given, and return once ``release`` has booted, whatever was tried before."""
        before = self.boot_id()
        self.run(*(command or ("systemctl", "reboot")), check=False)
        self.wait_release(release, before, seconds)

    def wait_release(self, release: str, before: str, seconds: float = BOOT_SECONDS) -> None:
        """Return once ``release`` runs in another boot than ``before`` and that boot is complete."""

        def seen() -> bool:
            return self.boot_id() != before and self.status()["release"] == release

        self.wait_for(f"release {release} runs", seen, seconds)
        self.wait_booted()

    def wait_blessed(self, seconds: float = 120.0) -> None:
        """Return once the running release's entry has no count of tries any more."""
        release = str(self.status()["release"])

        def seen() -> bool:
            return any(name.endswith(f"_{release}.efi") for name in self.entries())

        self.wait_for(f"release {release} is blessed", seen, seconds)

    def power_cycle(self) -> None:
        """Cut the power and start again with the same disk."""
        self.machine.power_cut()
        self.machine = Machine.start(self.machine.config)

    def serial_tail(self) -> str:
        """Return the end of what the console showed, over all boots."""
        log = self.machine.config.serial_log
        said = tail(log.read_bytes(), SERIAL_LINES) if log.exists() else ""
        return f"--- serial console ({log})\n{said}"

    def journal(self) -> str:
        """Return the end of the guest's journal, if it still answers."""
        try:
            done = self.run("journalctl", "-b", "--no-pager", "-n", "150", seconds=30, check=False)
        except HostctlError as error:
            return f"--- journal: {error.brief}"
        return f"--- journal\n{done.text}"


def empty(part: Mapping[str, object]) -> bool:
    """Tell whether a partition, as sfdisk describes it, is one of an empty slot."""
    return part.get("name") == EMPTY
