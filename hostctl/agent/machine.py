"""What the agent does to the running system, as one thin edge: systemctl, networkctl, sysctl, tmpfiles, /etc.

It decides nothing. :class:`Machine` is the protocol that the transaction and the health checks are written against;
:class:`SystemdMachine` is the real one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from hostctl.errors import EXIT_UNAVAILABLE
from hostctl.layout import HostLayout
from hostctl.os_release import NotAHostError, identity
from hostctl.removal import remove_tree
from hostctl.run import CommandError, failure, run
from hostctl.workload.instance import name_of

Verb = Literal["start", "stop", "restart", "reset-failed"]
START_TIMEOUT = 300.0  # seconds for one systemctl call that waits for jobs
STOPPED_WITH = "stopped-with"
"""Folder with a file for each workload that was stopped with one which it requires."""
NOT_LOADED = 5  # systemctl's exit status for a unit that systemd does not know (LSB: "program is not installed")
NETWORK_UNIT = "hostctl-network.service"
PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic"),
    *("FreezerState", "ExecMainStatus", "ExecMainCode", "ExecMainStartTimestampMonotonic", "Job"),
)


def workload_unit(name: str) -> str:
    """Return the name of a workload's service."""
    return f"workload-{name}.service"


def starter_units(name: str) -> tuple[str, ...]:
    """Return the names of what may start a workload in its own time: a schedule, sockets."""
    return f"workload-{name}.timer", f"workload-{name}.socket"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitState:
    """What systemd says of a unit. ``active_for`` is in seconds, 0 when it is not active."""

    name: str
    active: str
    sub: str
    result: str
    main_pid: int
    restarts: int
    active_for: float
    paused: bool = False
    exit_status: int = 0
    """Of its last first process, as shells say it: 128 + number when a signal ended it."""
    started: bool = True
    """Whether it has run since the boot."""
    queued: bool = False
    """Whether it is down and systemd is to start it once those before it are ready."""

    @property
    def is_active(self) -> bool:
        """Tell whether it is up."""
        return self.active == "active"

    @property
    def is_up(self) -> bool:
        """Tell whether it is up, or on its way, for example between two tries."""
        return self.active not in ("inactive", "failed")

    @property
    def is_wanted(self) -> bool:
        """Tell whether it is up, on its way, or will be on its way when others are ready."""
        return self.is_up or self.queued


class SystemdUnavailableError(CommandError):
    """systemd does not answer."""

    id = "systemd-unavailable"
    exit_code = EXIT_UNAVAILABLE


class Machine(Protocol):
    """The running system."""

    def lay_etc(self, layer: Path | None, *, over: Path | None = None) -> None:
        """Show ``layer`` over /etc, and ``over`` over that, if given; None shows the image's own."""

    def cover(self, folder: Path, source: Path) -> None:
        """Show ``source`` at ``folder``, read-only, until it is uncovered or the host restarts."""

    def uncover(self, folder: Path) -> None:
        """Show what is in ``folder`` itself."""

    def reload_units(self) -> None:
        """Read unit files again."""

    def reload_network(self, *, block: bool = True) -> None:
        """Take over changed systemd-networkd files."""

    def refresh_workload_network(self, *, block: bool = True) -> None:
        """Run the network pass of all workloads again."""

    def apply_sysctl(self) -> Sequence[str]:
        """Set the kernel settings below /etc/sysctl.d, and undo those that were there; return what cannot be undone."""

    def make_homes(self) -> None:
        """Make declared home folders."""

    def set_hostname(self, name: str) -> None:
        """Set the kernel's host name."""

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Let systemd start, stop or restart units, or forget that they failed, and wait for the jobs if ``block``."""

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return the state of each unit."""

    def workload_health(self, name: str) -> str:
        """Return ``healthy``, ``unhealthy``, or nothing when no check has ended yet."""

    def forget_outcome(self, name: str) -> None:
        """Forget what the workload's last check said, and that a job has ended well."""

    def forget_workload(self, name: str) -> None:
        """Remove what a workload that is stopped has written outside of volumes."""


def exit_status(values: Mapping[str, str]) -> int:
    """Return the exit status of a unit's first process as shells do: 128 + number when a signal ended it."""
    status = int(values.get("ExecMainStatus") or 0)
    return status + 128 if values.get("ExecMainCode") in ("2", "3") else status  # waitid(2): CLD_KILLED, CLD_DUMPED


def parse_states(output: str, names: Sequence[str], *, now: float) -> dict[str, UnitState]:
    """Return the units in the output of ``systemctl show``, by the name they were asked for, which may be an alias.

    Args:
        output: blocks of KEY=VALUE lines with an empty line between, in the order of ``names``.
        names: the units that were asked for.
        now: CLOCK_MONOTONIC in seconds.
    """
    states: dict[str, UnitState] = {}
    for name, block in zip(names, output.strip().split("\n\n"), strict=False):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("LoadState") == "not-found":
            continue
        entered = int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        active = values.get("ActiveState", "unknown")
        states[name] = UnitState(
            name=name,
            active=active,
            sub=values.get("SubState", ""),
            result=values.get("Result", ""),
            main_pid=int(values.get("MainPID") or 0),
            restarts=int(values.get("NRestarts") or 0),
            active_for=max(0.0, now - entered) if active == "active" and entered else 0.0,
            paused=values.get("FreezerState", "running") != "running",
            exit_status=exit_status(values),
            started=values.get("ExecMainStartTimestampMonotonic") != "0",
            # Of what kind a job is systemctl show does not say. A stop of what is down is none for long.
            queued=active in ("inactive", "failed") and int(values.get("Job") or 0) > 0,
        )
    return states


class SystemdMachine:
    """The machine this process runs on."""

    def __init__(self, layout: HostLayout) -> None:
        self.layout = layout

    def lay_etc(self, layer: Path | None, *, over: Path | None = None) -> None:
        """Show ``layer`` over /etc, and ``over`` over that, if given; None shows the image's own."""
        from hostctl.agent import etc_mount  # noqa: PLC0415 - ctypes is needed only by a change, start-up counts

        etc = self.layout.root / "etc"
        if layer is None:
            etc_mount.uncover(etc)
        else:
            etc_mount.lay_over(layer, etc, self.layout.runtime / "image-root", root=self.layout.root, over=over)

    def cover(self, folder: Path, source: Path) -> None:
        """Show ``source`` at ``folder``, read-only, until it is uncovered or the host restarts."""
        from hostctl import mounting  # noqa: PLC0415 - as above

        mounting.uncover(folder)
        mounting.cover(source, folder)

    def uncover(self, folder: Path) -> None:
        """Show what is in ``folder`` itself."""
        from hostctl import mounting  # noqa: PLC0415 - as above

        mounting.uncover(folder)

    def reload_units(self) -> None:
        """Read unit files again."""
        run(["systemctl", "daemon-reload"], timeout=START_TIMEOUT)

    def reload_network(self, *, block: bool = True) -> None:
        """Take over changed systemd-networkd files; nothing when it does not run (yet)."""
        words = ["systemctl", "try-reload-or-restart", *([] if block else ["--no-block"])]
        run([*words, "systemd-networkd.service"], timeout=60)

    def refresh_workload_network(self, *, block: bool = True) -> None:
        """Run the network pass of all workloads again."""
        if not block:  # it may be running with the former plan, and must run once more
            self.units("restart", [NETWORK_UNIT], block=False)
            return
        run(["systemctl", "reload-or-restart", NETWORK_UNIT], timeout=START_TIMEOUT)

    def apply_sysctl(self) -> Sequence[str]:
        """Set the kernel settings below /etc/sysctl.d, and undo those that were there; return what cannot be undone."""
        from hostctl.agent import kernel_settings  # noqa: PLC0415 - only when one changes, and start-up counts

        notes = kernel_settings.bring(self.layout)
        run(["/usr/lib/systemd/systemd-sysctl"], timeout=60)
        return notes

    def make_homes(self) -> None:
        """Make declared home folders."""
        run(["systemd-tmpfiles", "--create", "hostctl-homes.conf"], timeout=60, check=False)

    def set_hostname(self, name: str) -> None:
        """Set the kernel's host name."""
        (self.layout.root / "proc/sys/kernel/hostname").write_text(name)

    def units(self, verb: Verb, names: Sequence[str], *, block: bool = True) -> None:
        """Let systemd start, stop or restart units, or forget that they failed, and wait for the jobs if ``block``.

        A start that somebody asks for does not count as one of the restarts that a unit may be limited to. What systemd
        has not loaded is stopped: it forgets units that are down and that nothing names, however often it is asked.
        """
        if names and verb != "stop":
            run(["systemctl", "reset-failed", "--", *names], timeout=60, check=False)
        if names and verb != "reset-failed":
            argv = ["systemctl", verb, *([] if block else ["--no-block"]), "--", *names]
            done = run(argv, timeout=START_TIMEOUT, check=False)
            if done.status and not (verb == "stop" and done.status == NOT_LOADED):
                raise failure(argv, done.status, done.stderr or done.stdout)

    def states(self, names: Sequence[str]) -> Mapping[str, UnitState]:
        """Return the state of each unit."""
        if not names:
            return {}
        try:
            done = run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *names], timeout=30)
        except CommandError as error:
            raise SystemdUnavailableError("systemd does not answer", details=error.details) from error
        return parse_states(done.text, names, now=time.clock_gettime(time.CLOCK_MONOTONIC))

    def workload_health(self, name: str) -> str:
        """Return ``healthy``, ``unhealthy``, or nothing when no check of this run of the workload has ended yet."""
        try:
            started = (self.layout.runtime / "pids" / name).stat().st_mtime_ns
            said, run = (self.layout.runtime / "health" / name).read_text().split()
        except (OSError, ValueError):
            return ""
        return said if run == str(started) else ""

    def forget_outcome(self, name: str) -> None:
        """Forget what the workload's last check said, that a job has ended well, and with whom it was stopped."""
        (self.layout.runtime / STOPPED_WITH / name_of(name)).unlink(missing_ok=True)
        for kind in ("health", "completed"):
            (self.layout.runtime / kind / name).unlink(missing_ok=True)

    def forget_workload(self, name: str) -> None:
        """Remove what a workload that is stopped has written outside of volumes; symbolic links are not followed."""
        from hostctl.workload import roots  # noqa: PLC0415 - ctypes is needed only by a change, start-up counts

        roots.remove(self.layout, name)
        for folder in (self.layout.workloads, self.layout.runtime / "workloads"):
            with suppress(OSError):
                remove_tree(folder / name)
        for kind in ("inhibit", "pids"):
            (self.layout.runtime / kind / name).unlink(missing_ok=True)


def boot_id(root: Path = Path("/")) -> str:
    """Return the kernel's id of this boot."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


def release_version(root: Path = Path("/")) -> str:
    """Return the version of the running release; empty when the machine is not one of ours."""
    try:
        return identity(root).version
    except NotAHostError:
        return ""


def is_root() -> bool:
    """Tell whether this process may change the machine."""
    return os.geteuid() == 0
