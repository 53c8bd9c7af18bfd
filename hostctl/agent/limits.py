"""Limits of a running workload, changed while it runs: until they are given up, declared anew, or the next boot.

The declaration stays what it is, so `hostctl limits` names both, and the next change of the workload ends the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.agent import unit_control
from hostctl.config.quantities import ByteSize, Cpus
from hostctl.config.workload import Workload
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.run import run
from hostctl.workload import resources

CONTROL = Path("run/systemd/system.control")  # systemctl(1), set-property --runtime
PROPERTIES = ("MemoryMax", "CPUQuotaPerSecUSec", "TasksMax")
UNLIMITED = {"MemoryMax": "infinity", "CPUQuota": "", "TasksMax": "infinity"}
MAX_PIDS = 4194304
NONE = "none"


class LimitError(HostctlError):
    """A limit is none that can be set."""

    id = "limit-invalid"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What holds now, as systemd says it; ``changed`` tells whether it is other than declared."""

    memory: str
    cpus: str
    pids: str
    changed: bool


def settings(wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Return the properties for ``systemctl set-property``.

    Args:
        wanted: of memory, cpus and pids what is to change, written as in host.yaml, or ``none`` for no limit.

    Raises:
        LimitError: one is not understood.
    """
    made: list[str] = []
    for name, text in wanted.items():
        try:
            if name == "memory":
                made.append(f"MemoryMax={'infinity' if text == NONE else int(ByteSize.parse(text))}")
            elif name == "cpus":
                made.append(f"CPUQuota={'' if text == NONE else f'{float(Cpus.parse(text)) * 100:.2f}%'}")
            elif name == "pids":
                made.append(f"TasksMax={'infinity' if text == NONE else _pids(text)}")
            else:
                raise LimitError(f"there is no limit {name!r}", hint="memory, cpus, pids")
        except ValueError as error:
            raise LimitError(f"{name}: {error}") from error
    return tuple(made)


def _pids(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PIDS):
        raise ValueError(f"{text!r} is no number from 1 to {MAX_PIDS}")
    return int(text)


def change(unit: str, properties: Sequence[str]) -> None:
    """Set limits of a unit at once."""
    run(["systemctl", "set-property", "--runtime", "--", unit, *properties], timeout=unit_control.SHORT)


def forget(units: Sequence[str], root: Path = Path("/")) -> bool:
    """Let what the unit files say hold again; return whether anything else did."""
    folders = [folder for unit in units if (folder := root / CONTROL / f"{unit}.d").is_dir()]
    for folder in folders:
        shutil.rmtree(folder)
    if folders:
        run(["systemctl", "daemon-reload"], timeout=unit_control.SHORT * 4)
    return bool(folders)


def declared(workload: Workload) -> tuple[str, ...]:
    """Return the properties for ``systemctl set-property`` that say what a unit file says."""
    known = dict(resources.settings(workload))
    return tuple(f"{name}={known.get(name, unlimited)}" for name, unlimited in UNLIMITED.items())


def reset(units: Sequence[str], workload: Workload, root: Path = Path("/")) -> None:
    """Let what is declared hold again, before this returns.

    So it is set at once first: what systemd reads anew of a file that is gone reaches the kernel seconds later.
    """
    for unit in units:
        if (root / CONTROL / f"{unit}.d").is_dir():
            change(unit, declared(workload))
    forget(units, root)


def read(unit: str, root: Path = Path("/")) -> Limits:
    """Return what holds for a unit."""
    shown = unit_control.show([unit], PROPERTIES)[0]
    return Limits(
        memory=_shown(shown, "MemoryMax"),
        cpus=_shown(shown, "CPUQuotaPerSecUSec"),
        pids=_shown(shown, "TasksMax"),
        changed=(root / CONTROL / f"{unit}.d").is_dir(),
    )


def _shown(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    return NONE if text in ("", "infinity") else text
