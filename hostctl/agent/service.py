"""``hostd``: the methods of org.hostctl.Host1, each a thin call of what the rest of the package decides and does.

Every method returns a JSON document. Reading is for everybody, changing for root and the declared users with sudo. The
agent holds no state of its own: killing it harms nothing, a generation that it was trying is taken back when it starts
again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from hostctl.agent import apply as transaction
from hostctl.agent import (
    build_method,
    bus,
    commit_method,
    control,
    event_log,
    exclusive,
    execution,
    generation,
    images,
    leftovers,
    limits,
    lookups,
    overview,
    parsed,
    pausing,
    reach,
    secret_methods,
    transient_methods,
    view_methods,
    volume_methods,
)
from hostctl.agent.apply import Context, Notify
from hostctl.agent.bus import Call, Method
from hostctl.agent.generation import Pin, Renewed, Stored
from hostctl.agent.image_service import ImageService
from hostctl.agent.machine import Machine, SystemdMachine, release_version
from hostctl.agent.outcome import Action, Outcome
from hostctl.agent.rolling import PATIENCE, Changeover
from hostctl.agent.stage import HostStager
from hostctl.agent.volumes import Volumes
from hostctl.agent.workloads import HostWorkloads
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

log = logging.getLogger(__name__)


def _silent(text: str) -> None:
    del text


def context(layout: HostLayout, *, notify: Notify = _silent, booting: bool = False, withhold: bool = False) -> Context:
    """Return what the transaction needs on this machine.

    Args:
        layout: the machine.
        notify: told what is done.
        booting: as in the context.
        withhold: whether a machine without a whole generation does without its workloads until their images are here.
    """
    release = release_version(layout.root)
    return Context(
        layout=layout,
        machine=SystemdMachine(layout),
        stage=HostStager(layout=layout, release=release, workloads=HostWorkloads(layout=layout, notify=notify)),
        release=release,
        notify=notify,
        collect=lambda pinned: images.collect(layout, pinned),
        forget_limits=lambda units: limits.forget(units, layout.root),
        booting=booting,
        lacking=lambda declaration: images.lacking_here(layout, declaration) if withhold else (),
    )


def actions_document(actions: Sequence[Action]) -> list[dict[str, str]]:
    """Return actions as they go over the bus."""
    return [asdict(action) for action in actions]


def outcome_document(outcome: Outcome) -> dict[str, object]:
    """Return what applying did, as it goes over the bus."""
    return {
        "generation": outcome.generation,
        "former": outcome.former,
        "actions": actions_document(outcome.actions),
        "notes": list(outcome.notes),
    }


class HostService:
    """The methods, for the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine | None = None) -> None:
        self._layout = layout
        self._machine = machine or SystemdMachine(layout)

    def status(self, call: Call) -> str:
        """Return the machine in a few words: the fields of :class:`overview.Status`."""
        return json.dumps(asdict(overview.status(self._layout, self._machine)))

    def list_workloads(self, call: Call) -> str:
        """Return a list of :class:`overview.WorkloadStatus`."""
        return json.dumps([asdict(row) for row in overview.list_workloads(self._layout, self._machine)])

    def inspect(self, call: Call) -> str:
        """Return everything known of the workload named by the first argument."""
        return json.dumps(overview.inspect(call.arguments[0], self._layout, self._machine))

    def plan(self, call: Call) -> str:
        """Return the actions that applying would take: arguments are the declaration's text and its name."""
        declaration = parse_host(*call.arguments)
        former = generation.current(self._layout)
        pins = self._look_up(declaration, None, call.notify)
        actions = transaction.wanted_actions(declaration, former, release_version(self._layout.root), pins)
        return json.dumps(actions_document(actions))

    def _look_up(self, declaration: HostDeclaration, only: Collection[str] | None, notify: Notify) -> Mapping[str, Pin]:
        """Return what the tags stand for that are to be looked up, of all workloads or ``only`` some."""
        wanted = lookups.wanted(declaration, only)
        if not wanted:
            return {}
        store = images.open_store(self._layout, declaration)
        registries = images.Registries(layout=self._layout, declaration=declaration, store=store)
        return lookups.look_up(wanted, registries.resolve, notify)

    def apply(self, call: Call) -> str:
        """Apply a declaration: arguments are its text and its name. Returns the fields of :class:`apply.Outcome`."""
        text, name = call.arguments
        return json.dumps(outcome_document(self._apply(text, name, call.notify, looked_up=None)))

    def _apply(
        self,
        text: str,
        name: str,
        notify: Notify,
        renewed: Renewed | None = None,
        *,
        base: int | None = None,
        starts: Mapping[str, bool] | None = None,
        live: frozenset[str] = frozenset(),
        looked_up: Collection[str] | None = (),
        wait: float = 0.0,
        require: Callable[[], object] = lambda: None,
    ) -> Outcome:
        """Apply a declaration; tags are looked up of the workloads in ``looked_up``, None for all that want it."""
        where = replace(
            context(self._layout, notify=notify),
            starts=starts or {},
            live=live,
            require=require,
            look_up=lambda declaration: self._look_up(declaration, looked_up, notify),
        )
        outcome = transaction.apply(text, name, where, renewed, base=base, wait=wait)
        if outcome.actions:
            event_log.write("apply", str(outcome.generation), kind="generation", former=str(outcome.former or ""))
        return outcome

    def auto_update(self, call: Call) -> str:
        """Renew the images of the workloads that declare auto_update, or with the argument ``look`` only look.

        Returns a list with the fields of :class:`renewal.Renewal`.
        """
        from hostctl.agent import renewal  # noqa: PLC0415 - only for this method

        declaration = images.declared(self._layout)
        store = images.open_store(self._layout, declaration)
        registries = images.Registries(layout=self._layout, declaration=declaration, store=store, notify=call.notify)
        renewer = renewal.Renewer(
            layout=self._layout,
            look_up=registries.resolve,
            apply=lambda stored, renewed: self._apply(
                stored.declaration, f"generation {stored.record.number}", call.notify, renewed
            ),
            release=release_version(self._layout.root),
            notify=call.notify,
        )
        done = renewer.look() if call.arguments[0] == "look" else renewer.run()
        return json.dumps([asdict(each) for each in done])

    def _builds(self) -> build_method.BuildService:
        return build_method.BuildService(self._layout, self._machine, self._apply)

    def recover(self) -> None:
        """Take back or end what the agent before this one left: commands, stopped workloads, generations, files."""
        execution.recover(self._layout)
        pausing.recover(self._layout, self._machine)
        if transaction.unsettled(self._layout):
            self._settle()
        with suppress(HostctlError):  # the mark stays, for the next start
            Changeover(layout=self._layout, machine=self._machine).catch_up()
        leftovers.remove(self._layout)
        Volumes(self._layout, self._machine).clean()
        self._builds().recover()

    def _settle(self) -> None:
        """Take back or end a change that was cut off.

        If that fails its mark stays: it is tried again before the next change, at the next start and by the boot's
        health check. Meanwhile the agent answers, because what keeps it from that may have to be mended through it.
        """
        try:
            with exclusive.lock(self._layout):
                transaction.resolve(replace(context(self._layout), machine=self._machine, patience=PATIENCE))
        except (HostctlError, OSError) as error:
            log.warning("a change that was cut off is not settled yet: %s", transaction.words(error))

    def methods(self) -> tuple[Method, ...]:
        """Return the interface."""
        text = ("declaration", "source")
        return (
            Method(name="Status", handler=self.status, brief=True),
            Method(name="ListWorkloads", handler=self.list_workloads, brief=True),
            Method(name="Inspect", handler=self.inspect, strings=1, root_only=True, takes=("name",), brief=True),
            Method(name="Plan", handler=self.plan, strings=2, root_only=True, takes=text),
            Method(name="Apply", handler=self.apply, strings=2, root_only=True, takes=text),
            Method(name="AutoUpdate", handler=self.auto_update, strings=1, root_only=True, takes=("how",)),
            *reach.WorkloadReach(self._layout, self._machine).methods(),
            *control.WorkloadControl(self._layout, self._machine).methods(),
            *transient_methods.TransientService(self._layout, self._machine, self._apply).methods(),
            *commit_method.CommitService(self._layout, self._machine).methods(),
            *self._builds().methods(),
            *volume_methods.VolumeService(self._layout, self._machine).methods(),
            *ImageService(self._layout).methods(),
            *secret_methods.SecretService(self._layout, self._machine).methods(),
            *view_methods.ViewService(self._layout, self._machine).methods(),
        )


class Administrators:
    """The user ids of the declared users that may become root without a password.

    Anybody can have the agent ask for them, so they are read once a generation: to read a declaration takes long.
    """

    def __init__(self, layout: HostLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int], frozenset[int]] | None = None

    def __call__(self) -> frozenset[int]:
        """Return those of the generation in force."""
        path = self._layout.current.resolve()  # another may come into force at any moment
        with self._lock:
            try:
                found = (path / "generation.json").stat()
            except FileNotFoundError:
                return frozenset()
            state = (found.st_ino, found.st_mtime_ns)  # a generation never changes; the next has another file
            if self._known is None or self._known[0] != state:
                self._known = (state, self._read(generation.load(path)))
            return self._known[1]

    @staticmethod
    def _read(stored: Stored) -> frozenset[int]:
        declared = parsed.declaration(stored).users
        return frozenset(stored.record.uids[str(name)] for name, user in declared.items() if user.sudo)


def run(
    layout: HostLayout,
    *,
    address: str | None = None,
    idle: float = bus.IDLE,
    leave: Callable[[], object] = lambda: None,
) -> None:
    """Be the agent: take back or end what a crash left half done, then answer until idle.

    Args:
        layout: the machine.
        address: of the bus; none is the system bus.
        idle: seconds without a call after which it ends.
        leave: called before the name is given back for want of calls.
    """
    service = HostService(layout)
    service.recover()
    bus.serve(
        service.methods(),
        address=address,
        idle=idle,
        administrators=Administrators(layout),
        leave=leave,
    )
