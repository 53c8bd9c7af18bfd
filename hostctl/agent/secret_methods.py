"""The agent's methods on secrets. A value comes as an open file, so that no bus and no monitor of one sees it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from hostctl.agent import event_log
from hostctl.agent.bus import Call, Method
from hostctl.agent.machine import Machine
from hostctl.layout import HostLayout

RESTART = "restart"


class SecretService:
    """Values of secrets, for the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine) -> None:
        self._layout = layout
        self._machine = machine

    def list(self, call: Call) -> str:
        """Return names, never values: an object with secrets, a list of name, changed, declared, workloads."""
        del call
        from hostctl.agent import secrets  # noqa: PLC0415 - only for secrets, start-up counts

        return json.dumps({"secrets": [asdict(row) for row in secrets.listed(self._layout)]})

    def set(self, call: Call) -> str:
        """Store a value, read from a file to its end. Options: restart, of the running workloads that see it.

        Replicas are restarted one after the other, each when the one before is healthy. Says who was restarted.
        """
        from hostctl.agent import secrets  # noqa: PLC0415 - as above

        name, options = call.arguments
        with os.fdopen(os.dup(call.descriptors[0]), "rb") as file:
            secrets.put(self._layout, name, file.read(secrets.MAX_BYTES + 1))
        event_log.write("set", name, kind="secret")
        restarted: tuple[str, ...] = ()
        if RESTART in options.split():
            restarted = secrets.restart_users(self._layout, self._machine, name, notify=call.notify)
        return json.dumps({"done": "set", "name": name, "restarted": restarted})

    def remove(self, call: Call) -> str:
        """Remove a value; workloads that see it keep it to the end of their run."""
        from hostctl.agent import secrets  # noqa: PLC0415 - as above

        name = call.arguments[0]
        secrets.remove(self._layout, name)
        event_log.write("remove", name, kind="secret")
        return json.dumps({"done": "rm", "name": name, "restarted": []})

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        given = ("name", "options", "value")
        return (
            Method(name="ListSecrets", handler=self.list, root_only=True),
            Method(name="SetSecret", handler=self.set, strings=2, descriptors=1, root_only=True, takes=given),
            Method(name="RemoveSecret", handler=self.remove, strings=1, root_only=True, takes=("name",)),
        )
