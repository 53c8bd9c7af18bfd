"""Changes a workload without a lost request: a new instance beside the old one, which leaves when that is healthy.

Deciding is pure: which workloads change so, and what the letter of each one's live instance is. The steps are thin.
While two instances are there, a network plan in the runtime folder holds instead of the generation's: it says who has
the workload's name and published ports. One transaction of the packet filter moves those; connections that there are
stay where they are, because the kernel remembers for each where it leads. What is left of a change that was cut off is
found by that plan, and a boot begins without it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hostctl import durable
from hostctl.agent import parsed, pausing
from hostctl.agent.generation import Draft, Pin, Record, Stored
from hostctl.agent.machine import Machine, starter_units, workload_unit
from hostctl.agent.outcome import Action
from hostctl.agent.plan import stopped, workloads
from hostctl.config import networks
from hostctl.config.host import HostDeclaration
from hostctl.config.names import Name
from hostctl.layout import HostLayout
from hostctl.network import declared, document
from hostctl.network.model import NetworkPlan
from hostctl.workload import instance

PATIENCE = 10.0
"""Seconds that an agent which takes up a change that was cut off may wait for connections to end, and as many in all
for replicas that go back one after the other."""
UNMOVED = 0.0  # when a plan was written by which nothing leads to a new instance yet, so that there is nothing to drain
PAUSE = threading.Event()  # never set: waiting for it is the time to drain, and a signal ends it


@dataclass(frozen=True, kw_only=True, slots=True)
class Roll:
    """One workload that has two instances for a while, both by name and letter."""

    name: str
    old: str
    new: str


def draft(
    number: int,
    actions: tuple[Action, ...],
    *,
    old: HostDeclaration | None,
    new: HostDeclaration,
    record: Record | None,
    booting: bool = False,
    renewed: Mapping[str, Pin] | None = None,
    down: Collection[str] = (),
) -> Draft:
    """Decide which instance of each workload is the live one in the generation that is made.

    A workload keeps its letter unless it changes beside itself. It does not during boot, when nothing runs yet; nor
    when it is left down; nor when one of its networks changes, because the old instance could not stay on it; nor when
    one that it requires is stopped, because the old instance is stopped with that; nor when it was stopped first so
    far.

    Args:
        number: of the new generation.
        actions: what is done to get there.
        old: the declaration in force.
        new: the wanted one.
        record: of the generation in force.
        booting: whether this is at boot.
        renewed: see :class:`Draft`.
        down: workloads that are not started.
    """
    letters: dict[str, str] = {}
    leaving: list[str] = []
    changed = () if booting or old is None else set(workloads(actions, "change")).difference(down)
    ends = frozenset[str]() if old is None else stopped(actions, old, new)
    for each, workload in new.workloads.items():
        name = str(each)
        former = record.instances.get(name) if record else None
        if not workload.rolls:
            continue
        letters[name] = former or instance.FIRST
        stays = old is not None and name in changed and ends.isdisjoint(old.workloads[each].requires)
        if former and old is not None and stays and networks_stay(name, old, new):
            leaving.append(instance.key(name, former))
            letters[name] = instance.other(former)
    return Draft(number=number, instances=letters, leaving=tuple(leaving), renewed=renewed or {})


def networks_stay(name: str, old: HostDeclaration, new: HostDeclaration) -> bool:
    """Tell whether the networks that a workload was on stay as they are."""
    before, after = networks.declared(old), networks.declared(new)
    on = networks.attachments(old.workloads[Name(name)])
    return old.network_pool == new.network_pool and all(before[each] == after.get(each) for each in on)


def between(old: Record | None, new: Record | None) -> tuple[Roll, ...]:
    """Return the workloads of which two generations have different instances."""
    if old is None or new is None:
        return ()
    both = sorted(set(old.instances) & set(new.instances))
    return tuple(
        Roll(name=name, old=old.key(name), new=new.key(name))
        for name in both
        if old.instances[name] != new.instances[name]
    )


def longest_drain(rolls: Collection[Roll], declaration: HostDeclaration) -> float:
    """Return the seconds that connections to instances which leave may take."""
    return max((float(declaration.workloads[Name(roll.name)].update.drain) for roll in rolls), default=0.0)


def stop(machine: Machine, keys: Collection[str]) -> tuple[str, ...]:
    """Stop instances with what starts them; what systemd never got to know, because of a crash, is stopped already.

    Those that are paused run on for that. Returns the units that it knew.
    """
    units = [unit for key in keys for unit in (*starter_units(key), workload_unit(key))]
    states = machine.states(units)
    pausing.thaw(states)
    machine.units("stop", tuple(states))
    return tuple(states)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changeover:
    """The steps, on one machine."""

    layout: HostLayout
    machine: Machine
    notify: Callable[[str], None] = lambda text: None
    pause: Callable[[float], object] = PAUSE.wait
    """Waits so many seconds."""

    @property
    def under_way(self) -> bool:
        """Whether workloads have two instances."""
        return self.layout.changing_network.exists()

    def begin(self, former: Stored, wanted: Stored, rolls: Collection[Roll]) -> None:
        """Let the network have room for both instances from the next pass on; everything leads to the old ones."""
        if not rolls:
            return
        self.leave([roll.new for roll in rolls])  # of a change long ago, if that was cut off again and again
        new, old = (document.decode((each.path / "network.json").read_bytes()) for each in (wanted, former))
        self._write(declared.during(new, old, [roll.old for roll in rolls], moved=False))
        os.utime(self.layout.changing_network, (UNMOVED, UNMOVED))

    def move(self, rolls: Collection[Roll]) -> bool:
        """Lead names and new connections to the new instances; return whether that was not so before."""
        plan = self._plan()
        if not rolls or plan is None:
            return False
        wanted = declared.moved(plan, to={roll.new for roll in rolls})
        if wanted == plan:
            return False
        self.notify(f"leading new connections to {', '.join(roll.new for roll in rolls)}")
        self._mark_due()
        self._write(wanted)
        self.catch_up()
        return True

    def leave(self, keys: Collection[str], drain: float = 0.0) -> None:
        """Stop instances after their connections had time to end, and remove what they leave."""
        if not keys:
            return
        up = self.machine.states([workload_unit(key) for key in keys]).values()
        if drain > 0 and any(state.is_active for state in up):
            self.notify(f"waiting {drain:g}s for connections to {', '.join(keys)} to end")
            self.pause(drain)
        # What failed would be shown as that for ever, because its units are not there any more.
        self.machine.units("reset-failed", stop(self.machine, keys))
        for key in keys:
            self.machine.forget_outcome(key)
            self.machine.forget_workload(key)

    def forget(self) -> None:
        """Let the generation's own network plan hold again, from the next pass on."""
        self.layout.changing_network.unlink(missing_ok=True)

    def end(self) -> None:
        """Let the generation's own network plan hold again, and make the pass for it; a mark says that this is due."""
        self._mark_due()
        self.forget()
        self.catch_up()

    def catch_up(self) -> None:
        """Make the pass that is due, if one is: who moved or ended a change may have been killed before it."""
        if self.layout.network_due.exists():
            self.machine.refresh_workload_network()
            self.layout.network_due.unlink(missing_ok=True)

    def retire(self, rolls: Collection[Roll], declaration: HostDeclaration) -> None:
        """Let the old instances leave; the new ones have taken their place for good."""
        if not rolls:
            return
        self.leave([roll.old for roll in rolls], longest_drain(rolls, declaration))
        self.end()

    def take_back(self, rolls: Collection[Roll], declaration: HostDeclaration, patience: float = math.inf) -> None:
        """Lead everything to the instances that are gone back to, the ``new`` ones, and let the others leave.

        Who goes back makes the pass that is due then.

        Args:
            rolls: what is gone back with.
            declaration: what is gone back to.
            patience: seconds that connections may take at most, however long they are declared to.
        """
        if not rolls:
            return
        drain = 0.0
        if self.under_way:
            drain = longest_drain(rolls, declaration)
            if not self.move(rolls):
                drain -= time.time() - self._moved
                self.catch_up()  # whoever moved it back may have been killed before the pass
        self.leave([roll.old for roll in rolls], min(patience, drain))
        self.forget()

    def finish(self, current: Stored | None) -> tuple[str, ...]:
        """Let the instances leave that a change which was cut off after its end has left; return them."""
        plan = self._plan()
        live = current.record.instances if current else {}
        present = plan.workloads if plan else ()
        keys = [
            each.key for each in present if each.instance in instance.INSTANCES and live.get(each.name) != each.instance
        ]
        if current is not None and keys:
            known = parsed.declaration(current).workloads
            drains = [float(known[Name(n)].update.drain) for n in map(instance.name_of, keys) if Name(n) in known]
            self.leave(keys, min(PATIENCE, max(drains, default=0.0) - (time.time() - self._moved)))
        self.end()
        return tuple(keys)

    @property
    def _moved(self) -> float:
        """When new connections were last led elsewhere, by whoever did that; :data:`UNMOVED` if nobody has."""
        return self.layout.changing_network.stat().st_mtime

    def _plan(self) -> NetworkPlan | None:
        try:
            return document.decode(self.layout.changing_network.read_bytes())
        except FileNotFoundError:
            return None

    def _mark_due(self) -> None:
        self.layout.runtime.mkdir(parents=True, exist_ok=True)
        self.layout.network_due.touch()

    def _write(self, plan: NetworkPlan) -> None:
        self.layout.runtime.mkdir(parents=True, exist_ok=True)
        durable.write_file(self.layout.changing_network, document.encode(plan))
