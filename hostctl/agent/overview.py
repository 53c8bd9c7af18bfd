"""What runs on this host, read from the disk and from systemd without the agent: fast, and always there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl.agent import generation, withheld
from hostctl.agent.generation import Stored
from hostctl.agent.machine import Machine, UnitState, release_version, starter_units, workload_unit
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.workload.instance import LABEL, name_of


class UnknownWorkloadError(HostctlError):
    """No workload of this name is declared."""

    id = "unknown-workload"
    exit_code = EXIT_USAGE


class NotRunningError(HostctlError):
    """The workload is not up, so this cannot be done to it."""

    id = "workload-not-running"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadStatus:
    """One workload, or one of its replicas, as a table shows it. ``up_for`` is in seconds."""

    name: str
    image: str
    digest: str
    state: str
    sub: str
    health: str
    main_pid: int
    restarts: int
    up_for: float
    paused: bool = False
    exit_status: int = 0
    """Of its last run, when it does not run."""
    ports: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Its state as Docker calls it."""
        if self.paused:
            return "paused"
        words = {"active": "running", "activating": "restarting", "deactivating": "stopping", "failed": "exited"}
        return words.get(self.state, "exited" if self.state == "inactive" else self.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The machine in a few words.

    ``bad`` are the releases that it tried and will not take again, ``problems`` what keeps its state from being kept or
    its declaration from being in force.
    """

    hostname: str
    release: str
    releases: tuple[str, ...]
    bad: tuple[str, ...]
    generation: int
    generation_created: str
    state: str
    problems: tuple[str, ...]
    workloads: tuple[WorkloadStatus, ...]


def releases(labels: Iterable[str], running: str) -> tuple[str, ...]:
    """Return the versions in the root slots, from the partitions' labels ``NAME_VERSION``.

    Args:
        labels: of all partitions.
        running: version of the running release, which names the product: only labels of the same NAME count.
    """
    names = {label.removesuffix(f"_{running}") for label in labels if running and label.endswith(f"_{running}")}
    found = []
    for label in labels:
        name, separator, version = label.partition("_")
        if separator and name in names and not version.endswith(("-verity", "-sig")):
            found.append(version)
    return tuple(sorted(found))


def workload_status(
    key: str, stored: Stored, state: UnitState | None, health: str, ports: tuple[str, ...] = ()
) -> WorkloadStatus:
    """Return one container's row.

    One that is started by a schedule or by a connection is ``waiting`` in between, one that is started by hand only is
    ``created`` until then.
    """
    pin = stored.record.images.get(name_of(key))
    shown = state.active if state else "missing"
    units = stored.path / "etc/systemd/system"
    if shown == "inactive" and any((units / unit).is_file() for unit in starter_units(key)):
        shown = "waiting"
    elif shown == "inactive" and state is not None and not state.started:
        by_hand = not (units / "multi-user.target.wants" / workload_unit(key)).is_symlink()
        shown = "created" if by_hand else shown
    return WorkloadStatus(
        name=stored.record.label(key),
        image=pin.reference if pin else "",
        digest=pin.digest if pin else "",
        state=shown,
        sub=state.sub if state else "",
        health=health if state and state.is_active else "",
        main_pid=state.main_pid if state else 0,
        restarts=state.restarts if state else 0,
        up_for=round(state.active_for, 1) if state else 0.0,
        paused=state.paused if state else False,
        exit_status=state.exit_status if state and not state.is_active else 0,
        ports=ports,
    )


def published(stored: Stored) -> Mapping[str, tuple[str, ...]]:
    """Return the published ports of each workload, as they are declared: [ADDRESS:]HOST:CONTAINER[/udp]."""
    try:
        document = json.loads((stored.path / "network.json").read_bytes())
        return {
            name_of(str(key)): tuple(str(port) for port in each.get("ports", ()))
            for key, each in document.get("workloads", {}).items()
        }
    except (OSError, ValueError, AttributeError):
        return {}


def labels(name: str, layout: HostLayout) -> Mapping[str, str]:
    """Return the declared labels of a workload, as its bundle has them; none of one that is gone or cannot be read."""
    stored = generation.current(layout)
    if stored is None or not stored.record.named(name):
        return {}
    try:
        found = json.loads((stored.path / "bundles" / stored.record.key(name) / "config.json").read_bytes())
        annotations = dict(found.get("annotations") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return {
        str(each).removeprefix(LABEL): str(value) for each, value in annotations.items() if str(each).startswith(LABEL)
    }


def list_workloads(layout: HostLayout, machine: Machine) -> tuple[WorkloadStatus, ...]:
    """Return all workloads of the generation in force, by name, and of each all replicas, by number."""
    stored = generation.current(layout)
    if stored is None:
        return ()
    keys = [key for name in sorted(stored.record.images) for key in stored.record.keys(name)]
    states = machine.states([workload_unit(key) for key in keys])
    ports = published(stored)
    return tuple(
        workload_status(
            key, stored, states.get(workload_unit(key)), machine.workload_health(key), ports.get(name_of(key), ())
        )
        for key in keys
    )


def judge(workloads: Iterable[WorkloadStatus], problems: Sequence[str] = ()) -> str:
    """Return the machine's state in one word: ``running``, ``starting`` or ``degraded``."""
    rows = tuple(workloads)
    if problems or any(row.state in ("failed", "missing") or row.health == "unhealthy" for row in rows):
        return "degraded"
    return "starting" if any(row.state not in ("active", "waiting", "created") for row in rows) else "running"


def is_read_only(path: Path) -> bool:
    """Tell whether the file system at ``path`` cannot be written; an error of its disk can make it so at any time."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def state_problems(layout: HostLayout, read_only: Callable[[Path], bool] = is_read_only) -> tuple[str, ...]:
    """Return what is wrong with the file system that keeps the machine's state."""
    if layout.state_lost.exists():
        return (layout.state_lost.read_text(encoding="utf-8").strip(),)
    var = layout.root / "var"
    return (f"{var} can only be read: nothing is kept",) if var.exists() and read_only(var) else ()


def status(layout: HostLayout, machine: Machine) -> Status:
    """Return the machine in a few words."""
    from hostctl.update import history  # noqa: PLC0415 - only here, and the agent's start-up counts

    stored = generation.current(layout)
    labels_folder = layout.root / "dev/disk/by-partlabel"
    labels = [path.name for path in labels_folder.iterdir()] if labels_folder.is_dir() else []
    running = release_version(layout.root)
    workloads = list_workloads(layout, machine)
    problems = (*state_problems(layout), *withheld.problems(layout, stored))
    return Status(
        hostname=(layout.root / "proc/sys/kernel/hostname").read_text().strip(),
        release=running,
        releases=releases(labels, running),
        bad=tuple(sorted(history.bad_versions(history.read(layout.state / "history.jsonl")) - {running})),
        generation=stored.record.number if stored else 0,
        generation_created=stored.record.created if stored else "",
        state=judge(workloads, problems),
        problems=problems,
        workloads=workloads,
    )


def inspect(name: str, layout: HostLayout, machine: Machine) -> Mapping[str, object]:
    """Return everything known of a workload or one of its replicas, by default the first, as a tree for JSON.

    Raises:
        UnknownWorkloadError: it is not declared.
    """
    stored = require(name, layout)
    from hostctl.agent import inspection, network_view, unit_control  # noqa: PLC0415 - only here, start-up counts
    from hostctl.config.dump import plain  # noqa: PLC0415 - as above
    from hostctl.config.load import parse_host  # noqa: PLC0415 - as above

    declaration = parse_host(stored.declaration, "host.yaml")
    name = stored.record.called(name)
    key = stored.record.key(name)
    declared = {str(each): workload for each, workload in declaration.workloads.items()}[name_of(name)]
    unit = workload_unit(key)
    state = machine.states([unit]).get(unit)
    file = stored.path / "bundles" / key / "config.json"
    bundle = json.loads(file.read_bytes()) if file.is_file() else None
    ports = published(stored).get(name_of(name), ())
    status = workload_status(key, stored, state, machine.workload_health(key), ports)
    shown = unit_control.show([unit], inspection.PROPERTIES)[0] if state else {}
    return {
        **inspection.describe(status, bundle or {}, shown, network_view.read(stored)),
        "status": asdict(status),
        "unit": unit,
        "generation": stored.record.number,
        "declared": plain(declared, full=True),
        "bundle": bundle,
    }


def require(name: str, layout: HostLayout) -> Stored:
    """Return the generation in force if it declares workload ``name``, or the workload that ``name`` is a replica of.

    Raises:
        UnknownWorkloadError: it does not.
    """
    stored = generation.current(layout)
    known = sorted(stored.record.images) if stored else []
    if stored is None or not stored.record.named(name):
        hint = f"declared are {', '.join(known)}" if known else "no workloads are declared"
        count = stored.record.replicas.get(name_of(name), 0) if stored else 0
        if count:
            hint = f"its replicas are {name_of(name)}.1 to {name_of(name)}.{count}"
        if stored and stored.record.withheld:
            hint = withheld.reason(layout)
        raise UnknownWorkloadError(f"there is no workload {name!r}", hint=hint)
    return stored


def called(name: str, layout: HostLayout) -> str:
    """Return the full name of a workload or a replica: ``run-NAME`` may be called NAME, where no other is.

    Raises:
        UnknownWorkloadError: there is none.
    """
    return require(name, layout).record.called(name)
