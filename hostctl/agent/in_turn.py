"""Changes replicas of a workload one after the other, each when the one before is healthy, so that the others serve.

Deciding is pure: which workloads change so, and which of their replicas. The steps are thin. Units and folders of a
replica are called by one name whatever the generation, so while some wait for their turn the generation in force shows
the former one's in their place: their units by a layer over its own in /etc, their bundles by mounts over its own.
Whatever reads a unit, a check or a root meanwhile finds what that replica runs from, and a boot finds the generation
alone. Going back is the same from the other side, of those that had their turn; a file in the runtime folder says
which did not.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from hostctl import durable
from hostctl.agent import health, leaving
from hostctl.agent.generation import Record, Stored
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.outcome import Action
from hostctl.agent.plan import stopped, workloads
from hostctl.agent.rolling import networks_stay, stop
from hostctl.agent.tree import write
from hostctl.config import networks
from hostctl.config.host import HostDeclaration
from hostctl.config.names import Name
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.workload import root
from hostctl.workload.instance import name_of

Wait = Callable[..., health.Report]
"""As :func:`hostctl.agent.health.wait`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One workload, and those of its replicas that are changed one after the other."""

    name: str
    keys: tuple[str, ...]


def several(actions: tuple[Action, ...], before: Record, after: Record) -> tuple[str, ...]:
    """Return the changed workloads that have several replicas before and after."""
    return tuple(n for n in workloads(actions, "change") if min(len(before.keys(n)), len(after.keys(n))) > 1)


def decide(
    actions: tuple[Action, ...],
    *,
    old: HostDeclaration,
    new: HostDeclaration,
    before: Record,
    after: Record,
    apart: Collection[str] = (),
) -> tuple[Turn, ...]:
    """Return of :func:`several` those that can change one after the other, with the replicas that are there both times.

    Not those of which a network, or what they publish, changes: while some are as before and some as after, the packet
    filter would have to be both. Nor those that require one which is stopped, because they are stopped with it; nor
    those that others require, because these would be stopped with each.

    Args:
        actions: what is done.
        old: the declaration before.
        new: the one after.
        before: of the generation before.
        after: of the one after.
        apart: workloads that are not restarted.
    """
    ends = stopped(actions, old, new)
    required = {other for one in (old, new) for workload in one.workloads.values() for other in workload.requires}
    return tuple(
        Turn(name=name, keys=tuple(key for key in before.keys(name) if key in after.keys(name)))
        for name in several(actions, before, after)
        if name not in apart
        and name not in required
        and ends.isdisjoint((*old.workloads[Name(name)].requires, *new.workloads[Name(name)].requires))
        and _stays_reachable(name, old, new)
    )


def but(turns: tuple[Turn, ...], keys: Collection[str]) -> tuple[Turn, ...]:
    """Return the same turns without some replicas."""
    return tuple(replace(turn, keys=tuple(key for key in turn.keys if key not in keys)) for turn in turns)


def _stays_reachable(name: str, old: HostDeclaration, new: HostDeclaration) -> bool:
    was, becomes = old.workloads[Name(name)], new.workloads[Name(name)]
    same = (was.network, was.ports) == (becomes.network, becomes.ports)
    return same and networks.attachments(was) == networks.attachments(becomes) and networks_stay(name, old, new)


def await_healthy(
    key: str,
    record: Record,
    declaration: HostDeclaration,
    machine: Machine,
    *,
    notify: Callable[[str], None],
    wait: Wait = health.wait,
    limit: float | None = None,
) -> health.Report:
    """Wait until one replica is healthy and serves, and return what became of it.

    Args:
        key: of the replica.
        record: of the generation that it runs from.
        declaration: of the same.
        machine: the running system.
        notify: told what is waited for.
        wait: waits.
        limit: seconds, if it is to be less than the workload has for it.
    """
    name = name_of(key)
    checked = declaration.workloads[Name(name)].healthcheck is not None
    notify(f"waiting for replica {record.label(key)}")
    return wait(
        declaration,
        machine,
        # It says so a moment before connections are led there.
        steady=min(health.SETTLED if checked else 0.0, health.SETTLED if limit is None else limit),
        workloads=[name],
        checks=False,
        keys=lambda name: (key,),
        limit=limit,
    )


def unchanged(layout: HostLayout, number: int) -> frozenset[str]:
    """Return the replicas that run as generation ``number`` says although another was tried; none if nobody knows."""
    try:
        noted = json.loads((layout.turns / "unchanged").read_bytes())
        return frozenset(map(str, noted["keys"])) if noted["generation"] == number else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def clear(layout: HostLayout, machine: Machine, *stored: Stored) -> None:
    """Let generations show nothing but their own again, and forget who had a turn; nothing if there was none."""
    if not layout.turns.exists():
        return
    for each in stored:
        folder = each.path / "bundles"
        for bundle in sorted(folder.iterdir()) if folder.is_dir() else []:
            machine.uncover(bundle)
    shutil.rmtree(layout.turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """The steps of one change, on one machine."""

    layout: HostLayout
    machine: Machine
    before: Stored
    after: Stored
    turns: tuple[Turn, ...]
    notify: Callable[[str], None] = lambda text: None
    wait: Wait = health.wait
    clock: Callable[[], float] = time.monotonic
    back: bool = False
    """Whether ``after`` was in force before and is gone back to. Then one that is not healthy ends nothing."""
    patience: float | None = None
    """Seconds that going back may wait for health in all, if that is bounded."""
    down: frozenset[str] = frozenset()
    """Replicas that change, but are not started."""

    @property
    def names(self) -> frozenset[str]:
        """The workloads."""
        return frozenset(turn.name for turn in self.turns)

    @property
    def keys(self) -> tuple[str, ...]:
        """All that have a turn."""
        return tuple(key for turn in self.turns for key in turn.keys)

    def begin(self) -> None:
        """Have all of them wait: what the generation after says of them does not hold yet."""
        self.layout.turns.mkdir(parents=True, exist_ok=True)
        if not self.back:
            self._note(self.before, self.keys)
        for key in self.keys:
            self.machine.cover(self.after.path / "bundles" / key, self.before.path / "bundles" / key)

    def lay(self, waiting: Collection[str]) -> None:
        """Lay the generation over /etc, with the units that those who wait were started by."""
        mounted = sorted(self.layout.turns.glob("etc.*"))
        over = None
        if waiting:
            over = self.layout.turns / f"etc.{secrets.token_hex(4)}"
            write(over, leaving.tree(self.before, waiting, {}))
            over.chmod(0o755)
        self.machine.lay_etc(self.after.path / "etc", over=over)
        for folder in mounted:
            shutil.rmtree(folder)

    def take(self, declaration: HostDeclaration) -> None:
        """Change one after the other, those first that do not serve anyway.

        Args:
            declaration: of the generation after.

        Raises:
            UnhealthyError: one did not become healthy; those behind it were not touched.
        """
        waiting, ends = list(self.keys), self.clock() + (self.patience or 0.0)
        if self.back:
            kept = [workload_unit(key) for key in sorted(unchanged(self.layout, self.after.record.number))]
            up = {name for name, state in self.machine.states(kept).items() if state.is_active}
            left = {workload_unit(key) for key in self.down}
            self.machine.units("start", [unit for unit in kept if unit not in up | left], block=False)
        for turn in self.turns:
            order = sorted(turn.keys, key=self._serves)
            for number, key in enumerate(order, 1):
                waiting.remove(key)
                said = self._change(key, waiting, declaration)
                if key in self.down or (self.back and number == len(order)):
                    continue  # nobody waits for it
                limit = None if self.patience is None else max(0.0, ends - self.clock())
                report = await_healthy(
                    key, self.after.record, declaration, self.machine, notify=self.notify, wait=self.wait, limit=limit
                )
                if not report.healthy and not self.back:
                    raise self._unhealthy(key, order[number:], report, said)

    def _serves(self, key: str) -> bool:
        unit = workload_unit(key)
        state = self.machine.states([unit]).get(unit)
        return state is not None and state.is_active and self.machine.workload_health(key) != "unhealthy"

    def _change(self, key: str, waiting: Sequence[str], declaration: HostDeclaration) -> tuple[str, ...]:
        """Stop a replica by its old unit and start it by its new one; return why it did not start, if it did not."""
        machine, unit = self.machine, workload_unit(key)
        self.notify(f"changing replica {self.after.record.label(key)}{' back' if self.back else ''}")
        stopped = stop(machine, [key])
        # From here on it is what it is after. Cut off before, one that is down counts as unchanged and is started.
        if self.back:
            self._note(self.after, unchanged(self.layout, self.after.record.number) | {key})
        else:
            self._note(self.before, waiting)
        machine.units("reset-failed", [each for each in stopped if each != unit])
        machine.forget_outcome(key)
        machine.uncover(self.after.path / "bundles" / key)
        self.lay(waiting)
        machine.reload_units()
        if self._another_root(key):  # the networks stay
            machine.refresh_workload_network()
        if key in self.down:
            return ()
        # Until it says that it is ready, which one that is gone back to may never do.
        block = not (self.back and declaration.workloads[Name(name_of(key))].notify)
        try:
            machine.units("start", [unit], block=block)
        except HostctlError as error:
            return (error.brief,)
        return ()

    def _another_root(self, key: str) -> bool:
        """Tell whether the root file system of a replica is to be laid anew, which a pass does."""
        before, after = (each.path / "bundles" / key / root.FILE for each in (self.before, self.after))
        return before.read_bytes() != after.read_bytes()

    def _note(self, stored: Stored, keys: Collection[str]) -> None:
        document = {"generation": stored.record.number, "keys": sorted(keys)}
        durable.write_file(self.layout.turns / "unchanged", json.dumps(document).encode())

    def _unhealthy(
        self, key: str, later: Sequence[str], report: health.Report, said: Sequence[str]
    ) -> health.UnhealthyError:
        this, *others = (self.after.record.label(each) for each in (key, *later))
        rest = f"; not changed: {', '.join(others)}" if others else ""
        return health.UnhealthyError(
            f"{this} did not become healthy{rest}",
            details="\n".join((*said, report.cause())),
            hint=f"hostctl logs {this}",
            late=report.late,
        )
