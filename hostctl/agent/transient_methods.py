"""The agent's methods to run and remove workloads that are not in host.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable

from hostctl.agent import event_log, generation, transient
from hostctl.agent.apply import Notify, Outcome
from hostctl.agent.bus import Call, Method
from hostctl.agent.generation import Stored
from hostctl.layout import HostLayout

Apply = Callable[[str, str, Notify], Outcome]
"""Applies a declaration, given its text and its name, and tells of what it does."""


class TransientService:
    """Runs workloads by applying the declaration in force with one more, or one less."""

    def __init__(self, layout: HostLayout, apply: Apply) -> None:
        self._layout = layout
        self._apply = apply

    def _current(self) -> Stored:
        stored = generation.current(self._layout)
        if stored is None:
            raise transient.RunNotAllowedError("this host has no declaration yet")
        return stored

    def run(self, call: Call) -> str:
        """Run a workload, if the declaration has allow_run: its name, and its settings as an object.

        Returns its full name, which begins with run-.
        """
        name, request = call.arguments
        full = transient.full_name(name)
        outcome = self._apply(transient.add(self._current().declaration, full, request), full, call.notify)
        event_log.write("run", full, generation=str(outcome.generation))
        return json.dumps({"workload": full, "generation": outcome.generation, "notes": list(outcome.notes)})

    def remove(self, call: Call) -> str:
        """Stop and remove a workload that was run."""
        name = call.arguments[0]
        full = transient.full_name(name)
        outcome = self._apply(transient.remove(self._current().declaration, name), full, call.notify)
        event_log.write("remove", full)
        return json.dumps({"workload": full, "generation": outcome.generation})

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        return (
            Method(name="Run", handler=self.run, strings=2, root_only=True, takes=("name", "settings")),
            Method(name="Remove", handler=self.remove, strings=1, root_only=True, takes=("name",)),
        )
