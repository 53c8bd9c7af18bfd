"""``hostd``: the methods of org.hostctl.Host1, each a thin call of what the rest of the package decides and does.

Every method returns a JSON document. Reading is for everybody, changing for root. The agent holds no state of its own:
killing it harms nothing, a generation that it was trying is taken back when it starts again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import apply as transaction
from hostctl.agent import bus, generation, overview
from hostctl.agent.apply import Context, Notify, Outcome
from hostctl.agent.bus import Call, Method
from hostctl.agent.machine import SystemdMachine, Verb, release_version, workload_unit
from hostctl.agent.plan import Action
from hostctl.agent.stage import HostStager
from hostctl.agent.workloads import HostWorkloads
from hostctl.config.load import parse_host
from hostctl.image.store import ImageStore
from hostctl.layout import HostLayout


def _silent(text: str) -> None:
    del text


def context(layout: HostLayout, *, notify: Notify = _silent, booting: bool = False) -> Context:
    """Return what the transaction needs on this machine."""
    release = release_version(layout.root)
    return Context(
        layout=layout,
        machine=SystemdMachine(layout),
        stage=HostStager(layout=layout, release=release, workloads=HostWorkloads(layout=layout)),
        release=release,
        notify=notify,
        collect=ImageStore(layout.images, layout.baked_images).collect,
        booting=booting,
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

    def __init__(self, layout: HostLayout) -> None:
        self._layout = layout
        self._machine = SystemdMachine(layout)

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
        text, name = call.arguments
        former = generation.current(self._layout)
        release = release_version(self._layout.root)
        return json.dumps(actions_document(transaction.wanted_actions(parse_host(text, name), former, release)))

    def apply(self, call: Call) -> str:
        """Apply a declaration: arguments are its text and its name. Returns the fields of :class:`apply.Outcome`."""
        text, name = call.arguments
        wanted = context(self._layout, notify=call.notify)
        return json.dumps(outcome_document(transaction.apply(text, name, wanted)))

    def _unit(self, call: Call, verb: Verb) -> str:
        name = call.arguments[0]
        overview.require(name, self._layout)
        self._machine.units(verb, [workload_unit(name)])
        return json.dumps({"workload": name, "done": verb})

    def start(self, call: Call) -> str:
        """Start a workload."""
        return self._unit(call, "start")

    def stop(self, call: Call) -> str:
        """Stop a workload until the next start or boot."""
        return self._unit(call, "stop")

    def restart(self, call: Call) -> str:
        """Restart a workload."""
        return self._unit(call, "restart")

    def exec(self, call: Call) -> str:
        """Run a command in a workload: arguments are its name, an execution.Request as JSON, and its three files."""
        from hostctl.agent import execution  # noqa: PLC0415 - only for this method

        name, request = call.arguments
        stored = overview.require(name, self._layout)
        status = execution.execute(
            name,
            execution.decode(request),
            bundle=stored.path / "bundles" / name / "config.json",
            machine=self._machine,
            layout=self._layout,
            descriptors=call.descriptors,
        )
        return json.dumps({"status": status})

    def methods(self) -> tuple[Method, ...]:
        """Return the interface."""
        return (
            Method(name="Status", handler=self.status),
            Method(name="ListWorkloads", handler=self.list_workloads),
            Method(name="Inspect", handler=self.inspect, strings=1, root_only=True),
            Method(name="Plan", handler=self.plan, strings=2, root_only=True),
            Method(name="Apply", handler=self.apply, strings=2, root_only=True),
            Method(name="Start", handler=self.start, strings=1, root_only=True),
            Method(name="Stop", handler=self.stop, strings=1, root_only=True),
            Method(name="Restart", handler=self.restart, strings=1, root_only=True),
            Method(name="Exec", handler=self.exec, strings=2, descriptors=3, root_only=True),
        )


def run(layout: HostLayout, *, address: str | None = None, idle: float = bus.IDLE) -> None:
    """Be the agent: take back what a crash left untried, then answer until idle.

    Args:
        layout: the machine.
        address: of the bus; none is the system bus.
        idle: seconds without a call after which it ends.
    """
    if transaction.read_pending(layout) is not None:
        with transaction.lock(layout):
            transaction.resolve(context(layout))
    bus.serve(HostService(layout).methods(), address=address, idle=idle)
