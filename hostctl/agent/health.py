"""Health of the whole machine: the declared checks, and every required workload active and, where it says how, healthy.

Deciding is pure; probing is three small functions, as bounded as a workload's own check. Waiting repeats them until all
pass or one is too late.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Literal

from hostctl.agent.machine import Machine, UnitState, workload_unit
from hostctl.config.host import HealthCheck, HostDeclaration
from hostctl.config.workload import Workload
from hostctl.errors import HostctlError
from hostctl.workload import instance
from hostctl.workload import probe as workload_probe

PROBE_TIMEOUT = 5.0  # seconds that one http or tcp probe may take, whatever comes back
PAUSE, LONG_PAUSE = 0.5, 3.0  # seconds between two rounds of probes, at least and at most
REST = 2.0  # times what a round took, between these: where all is slow, looking must not keep from starting
SETTLED = 2.0  # seconds a workload without a check must have been up: one that dies at once is not healthy
WORKLOAD_DEADLINE = 90.0  # seconds that a workload may take at least, if it waits for no other

_PAUSE = threading.Event()  # never set: waiting for it is the time between two rounds, and a signal ends it


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one check."""

    kind: Literal["check", "workload"]
    name: str
    ok: bool
    detail: str
    final: bool = False
    """Will not change by waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks of a machine."""

    results: tuple[Result, ...]
    late: tuple[Result, ...] = ()
    """Those of the failures that ended the waiting: the others had time left."""

    @property
    def healthy(self) -> bool:
        """Tell whether every one passed."""
        return all(result.ok for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        """Those that did not pass."""
        return tuple(result for result in self.results if not result.ok)

    def cause(self) -> str:
        """Return the failures as one line."""
        return "; ".join(f"{result.kind} {result.name}: {result.detail}" for result in self.failures)


class UnhealthyError(HostctlError):
    """A declared check or a required workload did not come up in time.

    Args:
        brief, details, hint: as of any error.
        late: what did not.
    """

    id = "unhealthy"

    def __init__(self, brief: str, *, details: str = "", hint: str = "", late: tuple[Result, ...] = ()) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.late = late


def unmet(reasons: Sequence[str]) -> Report:
    """Return the report of a machine whose declaration is not in force, or not whole, for these reasons."""
    return Report(
        results=tuple(Result(kind="check", name="declaration", ok=False, detail=reason) for reason in reasons)
    )


def probe_http(url: str, timeout: float = PROBE_TIMEOUT) -> tuple[bool, str]:
    """Ask for ``url``, following nothing; good is a status from 200 to 399."""
    try:
        return workload_probe.try_http(url, timeout, verified=True)
    except (OSError, ValueError) as error:
        return False, f"{url}: {error or type(error).__name__}"


def probe_tcp(address: str, timeout: float = PROBE_TIMEOUT) -> tuple[bool, str]:
    """Connect to ``host:port``."""
    try:
        return workload_probe.try_tcp(address, timeout)
    except (OSError, ValueError) as error:
        return False, f"{address}: {error or type(error).__name__}"


def probe(check: HealthCheck, machine: Machine) -> tuple[bool, str]:
    """Run one declared check once."""
    if check.http is not None:
        return probe_http(check.http)
    if check.tcp is not None:
        return probe_tcp(str(check.tcp))
    unit = check.unit or ""
    state = machine.states([unit]).get(unit)
    if state is None:
        return False, f"{unit}: not found"
    return state.is_active, f"{unit}: {state.active} ({state.sub})"


def judge_workload(workload: Workload, state: UnitState | None, health: str) -> tuple[bool, str]:
    """Decide whether a workload is well, from its unit's state and what its own check last said."""
    if state is None:
        return False, "its unit is not there"
    if (workload.type == "job" or workload.sockets) and state.active == "inactive" and state.result == "success":
        return True, "waits for its time" if workload.starter != "service" else "not run yet"
    if not state.is_active:
        return False, f"{state.active} ({state.sub}, result {state.result})"
    if workload.healthcheck is not None:
        return health == "healthy", health or "no check has passed yet"
    if workload.type != "job" and state.active_for < SETTLED:
        return False, "just started"
    return True, "active"


def workload_deadlines(declared: Mapping[str, Workload]) -> dict[str, float]:
    """Return how many seconds each workload may take to become healthy, with those that it starts after."""
    order = TopologicalSorter({name: [*map(str, each.depends_on)] for name, each in declared.items()}).static_order()
    found: dict[str, float] = {}
    for name in order:
        check, patience = declared[name].healthcheck, 0.0
        if check is not None:
            patience = float(check.start_period) + check.retries * (float(check.interval) + float(check.timeout))
        before = max((found[str(other)] for other in declared[name].depends_on), default=0.0)
        found[name] = before + max(WORKLOAD_DEADLINE, patience)
    return found


def required(declaration: HostDeclaration) -> Mapping[str, Workload]:
    """Return the workloads without which the machine counts as unhealthy."""
    return {str(name): workload for name, workload in declaration.workloads.items() if workload.required}


Keys = Callable[[str], tuple[str, ...]]
"""What units and folders of a workload are called by; see :meth:`hostctl.agent.generation.Record.keys`."""


def by_name(name: str) -> tuple[str, ...]:
    """Return what those of a workload with one container, without instances, are called by."""
    return (name,)


def check_once(
    declaration: HostDeclaration,
    machine: Machine,
    workloads: Sequence[str],
    *,
    keys: Keys = by_name,
    checks: bool = True,
) -> Report:
    """Run every check once, if ``checks`` are wanted, and look at ``workloads``."""
    units = {key: workload_unit(key) for name in workloads for key in keys(name)}
    states = machine.states(list(units.values()))
    results = []
    for label, check in declaration.health.items() if checks else ():
        ok, detail = probe(check, machine)
        results.append(Result(kind="check", name=str(label), ok=ok, detail=detail))
    declared = {str(name): workload for name, workload in declaration.workloads.items()}
    for name in workloads:
        several = declared[name].replicas
        found = []
        for key in keys(name):
            state = states.get(units[key])
            ok, detail = judge_workload(declared[name], state, machine.workload_health(key))
            final = state is not None and state.active == "failed"
            said = f"{instance.label(key, several)}: {detail}" if several > 1 else detail
            found.append(Result(kind="workload", name=name, ok=ok, detail=said, final=final))
        # The worst stands for all: they are well when each is.
        results.append(min(found, key=lambda each: (each.ok, not each.final)))
    return Report(results=tuple(results))


def deadlines(declaration: HostDeclaration, workloads: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the seconds that each check and workload may take."""
    limits = {("check", str(name)): float(check.within) for name, check in declaration.health.items()}
    own = workload_deadlines({str(name): workload for name, workload in declaration.workloads.items()})
    limits |= {("workload", name): own[name] for name in workloads}
    return limits


def wait(
    declaration: HostDeclaration,
    machine: Machine,
    *,
    notify: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = _PAUSE.wait,
    steady: float = 0.0,
    workloads: Sequence[str] | None = None,
    checks: bool = True,
    keys: Keys = by_name,
    limit: float | None = None,
) -> Report:
    """Repeat the checks until all pass, or one that still fails is past its deadline.

    Args:
        declaration: what is declared.
        machine: the running system.
        notify: told what is being waited for, whenever that changes.
        steady: seconds that all must go on to pass: what fails in between is waited for again.
        clock: seconds that only grow.
        pause: waits that many seconds between two rounds.
        workloads: those that count; by default the required ones.
        checks: whether the declared checks count as well.
        keys: what units and folders of a workload are called by.
        limit: seconds after which nothing is waited for, whatever may take longer.
    """
    workloads = tuple(required(declaration)) if workloads is None else workloads
    limits = deadlines(declaration, workloads)
    if limit is not None:
        limits = {subject: min(seconds, limit) for subject, seconds in limits.items()}
    started = clock()
    told = ""
    well: float | None = None
    while True:
        began = clock()
        report = check_once(declaration, machine, workloads, keys=keys, checks=checks)
        passed = clock() - started
        late = tuple(each for each in report.failures if each.final or passed >= limits[each.kind, each.name])
        well = (passed if well is None else well) if report.healthy else None
        if late or (well is not None and passed - well >= steady):
            return replace(report, late=late)
        waiting = ", ".join(f"{result.kind} {result.name}" for result in report.failures)
        if waiting != told:
            notify(f"waiting for {waiting or 'all to stay well'}")
            told = waiting
        pause(min(max(PAUSE, REST * (clock() - began)), LONG_PAUSE))
