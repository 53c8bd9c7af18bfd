"""The agent's methods to run, make, rename and remove workloads that are not in host.yaml."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from hostctl.agent import event_log, generation, images, network_view, reconnect, transient
from hostctl.agent.apply import Notify
from hostctl.agent.bus import Call, Method
from hostctl.agent.exclusive import anew
from hostctl.agent.generation import Pin, Stored
from hostctl.agent.image_service import PATIENCE
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.outcome import Outcome
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout

log = logging.getLogger(__name__)


class Apply(Protocol):
    """Applies a declaration, given its text and its name, and tells of what it does.

    ``base`` is the generation that the text was made from, ``wait`` for how long somebody else may change the machine
    before, the rest as in ``Context``.
    """

    def __call__(
        self,
        text: str,
        name: str,
        notify: Notify,
        *,
        base: int,
        starts: Mapping[str, bool] | None = None,
        live: frozenset[str] = frozenset(),
        looked_up: Collection[str] | None = (),
        wait: float = 0.0,
        require: Callable[[], object] = lambda: None,
    ) -> Outcome:
        """Apply it."""


class TransientService:
    """Runs workloads by applying the declaration in force with one more, one less, or another name.

    Each of its methods waits for who else changes the machine, as somebody asked for both.
    """

    def __init__(self, layout: HostLayout, machine: Machine, apply: Apply, patience: float = PATIENCE) -> None:
        self._layout = layout
        self._machine = machine
        self._apply = apply
        self._patience = patience

    def _current(self) -> Stored:
        stored = generation.current(self._layout)
        if stored is None:
            raise transient.RunNotAllowedError("this host has no declaration yet")
        return stored

    def _add(self, call: Call, action: str, *, by_hand: bool) -> str:
        name, request = call.arguments
        full = transient.full_name(name)
        folder = self._layout.volumes
        volumes = [path.name for path in folder.iterdir()] if folder.is_dir() else []

        def deed() -> Outcome:
            stored = self._current()
            text = transient.add(stored.declaration, full, request, by_hand=by_hand, volumes=volumes)
            return self._apply(
                text,
                full,
                call.notify,
                base=stored.record.number,
                starts={full: not by_hand},
                looked_up={full},
                wait=self._patience,
                require=call.caller.require,
            )

        outcome = anew(deed, seconds=self._patience)
        event_log.write(action, full, generation=str(outcome.generation))
        if call.caller.has_gone:
            self._take_back(full)
            call.caller.require()
        state = self._machine.states([workload_unit(full)]).get(workload_unit(full))
        started = state is not None and state.started
        # One that has ended before systemd saw it up is no failed start: it has an exit status.
        notes = [note for note in outcome.notes if not (started and note.startswith(f"workload {full} did not start"))]
        document = {"workload": full, "generation": outcome.generation, "started": started, "notes": notes}
        return json.dumps(document)

    def _take_back(self, full: str) -> None:
        """Remove what was made for somebody who has gone meanwhile, and so does not know of it."""
        try:
            self._remove(full, lambda said: None)
        except transient.UnknownRunError:  # they have seen to that
            return
        except HostctlError as error:
            log.warning("workload %s stays, although whoever asked for it has gone: %s", full, error.brief)

    def run(self, call: Call) -> str:
        """Run a workload, if the declaration has allow_run: its name, and its settings as an object.

        Returns its full name, which begins with run-, and whether it has started. Of a caller who leaves the bus before
        that, nothing stays.
        """
        return self._add(call, "run", by_hand=False)

    def create(self, call: Call) -> str:
        """Make a workload that Start starts, if the declaration has allow_run; otherwise as Run."""
        return self._add(call, "create", by_hand=True)

    def rename(self, call: Call) -> str:
        """Give a workload that was run another name. One that runs is started anew under it, from the same image."""
        old, new = call.arguments
        was, full = transient.full_name(old), transient.full_name(new)

        def deed() -> Outcome:
            stored = self._current()
            text = transient.rename(stored.declaration, old, new, image=self._kept(stored.record.images.get(was)))
            state = self._machine.states([workload_unit(was)]).get(workload_unit(was))
            up = state is not None and state.is_up
            starts = {was: up, full: up}  # the old one, if it is taken back
            base = stored.record.number
            return self._apply(text, full, call.notify, base=base, starts=starts, wait=self._patience)

        outcome = anew(deed, seconds=self._patience)
        event_log.write("rename", full, former=was)
        document = {"workload": full, "former": was, "generation": outcome.generation, "notes": list(outcome.notes)}
        return json.dumps(document)

    def _kept(self, pin: Pin | None) -> str | None:
        """Return a reference to the very image that a workload runs, if its name has come to mean another since."""
        if pin is None or "@" in pin.reference:
            return None
        known = images.open_store(self._layout, images.declared(self._layout)).names().get(pin.reference)
        return None if known == pin.digest else f"{pin.reference}@{pin.digest}"

    def remove(self, call: Call) -> str:
        """Stop and remove a workload that was run."""
        name = call.arguments[0]
        outcome = self._remove(name, call.notify)
        return json.dumps({"workload": transient.full_name(name), "generation": outcome.generation})

    def _remove(self, name: str, notify: Notify) -> Outcome:
        full = transient.full_name(name)

        def deed() -> Outcome:
            stored = self._current()
            text = transient.remove(stored.declaration, name)
            return self._apply(text, full, notify, base=stored.record.number, wait=self._patience)

        outcome = anew(deed, seconds=self._patience)
        event_log.write("remove", full)
        return outcome

    def connect(self, call: Call) -> str:
        """Connect a workload that was run to a network: network, name, and an object with aliases, ipv4, ipv6.

        It runs on. Returns its addresses there.
        """
        network, name, request = call.arguments

        def deed() -> tuple[reconnect.Change, Outcome]:
            stored = self._current()
            change = reconnect.connect(stored.declaration, network, name, request)
            return change, self._change(change, stored, call.notify, live=frozenset({change.workload}))

        change, outcome = anew(deed, seconds=self._patience)
        event_log.write("connect", change.workload, network=network)
        notes = [
            *outcome.notes,
            *(["it asks the network's name server from its next start on"] if change.renames else []),
        ]
        return self._connected(change.workload, network, notes)

    def disconnect(self, call: Call) -> str:
        """Take a workload that was run off a network: network, name, and options, of which there is one: force.

        It runs on. If its name server is in that network, it is only done with force, and the workload started anew.
        """
        network, name, options = call.arguments
        force = "force" in options.split()
        change, outcome = anew(lambda: self._off(network, name, call.notify, force=force), seconds=self._patience)
        event_log.write("disconnect", change.workload, network=network)
        return self._connected(change.workload, network, outcome.notes)

    def _off(self, network: str, name: str, notify: Notify, *, force: bool) -> tuple[reconnect.Change, Outcome]:
        stored = self._current()
        change = reconnect.disconnect(stored.declaration, network, name)
        unit = workload_unit(change.workload)
        state = self._machine.states([unit]).get(unit)
        restarts = change.renames and state is not None and state.is_up
        if restarts and not force:
            raise reconnect.ConnectError(
                f"the name server of workload {change.workload} is in network {network}",
                details="it would find no names any more until its next start",
                hint="--force starts it anew; what it wrote outside of volumes is gone then",
            )
        live = frozenset() if restarts else frozenset({change.workload})
        return change, self._change(change, stored, notify, live=live)

    def _change(self, change: reconnect.Change, stored: Stored, notify: Notify, *, live: frozenset[str]) -> Outcome:
        base = stored.record.number
        return self._apply(change.text, change.workload, notify, base=base, live=live, wait=self._patience)

    def _connected(self, name: str, network: str, notes: Sequence[str]) -> str:
        places = {each.name: each.workloads.get(name) for each in network_view.read(generation.current(self._layout))}
        place = places.get(network)
        addresses = [place.address, place.address6] if place is not None else []
        document = {"workload": name, "network": network, "addresses": [each for each in addresses if each]}
        return json.dumps({**document, "notes": list(notes)})

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        made = ("name", "settings")
        return (
            Method(name="Run", handler=self.run, strings=2, root_only=True, takes=made),
            Method(name="Create", handler=self.create, strings=2, root_only=True, takes=made),
            Method(name="Rename", handler=self.rename, strings=2, root_only=True, takes=("name", "new_name")),
            Method(name="ConnectNetwork", handler=self.connect, strings=3, root_only=True, takes=("network", *made)),
            Method(
                name="DisconnectNetwork",
                handler=self.disconnect,
                strings=3,
                root_only=True,
                takes=("network", "name", "options"),
            ),
            Method(name="Remove", handler=self.remove, strings=1, root_only=True, takes=("name",)),
        )
