"""The agent's methods that reach into running workloads: commands, copies, what was changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hostctl.agent import copying, difference, event_log, execution, overview
from hostctl.agent.bus import Call, Method
from hostctl.agent.execution import Target
from hostctl.agent.generation import Stored
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.request import decode
from hostctl.layout import HostLayout


def config_file(stored: Stored, name: str, layout: HostLayout) -> Path:
    """Return the config.json that a workload is started by: with secrets in its environment, the one in memory.

    Whether it has such is told by its unit, which names that one; a file that lies there may be of an earlier
    generation.
    """
    key = stored.record.key(name)
    unit = (stored.path / "etc/systemd/system" / workload_unit(key)).read_text()
    in_memory = any(line.startswith("ExecStart=") and " --config " in line for line in unit.splitlines())
    folder = layout.runtime / "workloads" if in_memory else stored.path / "bundles"
    return folder / key / "config.json"


class WorkloadReach:
    """Runs commands in, copies files of, and compares the workloads of the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine) -> None:
        self._layout = layout
        self._machine = machine

    def _target(self, name: str) -> Target:
        stored = overview.require(name, self._layout)
        return execution.target(name, config_file(stored, name, self._layout), self._machine)

    def exec(self, call: Call) -> str:
        """Run a command in a workload on three files, and return its exit status.

        The request is a JSON object: argv, terminal, user, workdir, env. With a terminal the first file is a Unix
        socket, over which the caller gets the master end of the terminal. When the caller leaves the bus, the command
        is ended.
        """
        name, text = call.arguments
        request = decode(text)
        where = self._target(name)
        event_log.write("exec", overview.called(name, self._layout), command=request.argv[0])
        status = execution.execute(
            where, request, layout=self._layout, descriptors=call.descriptors, caller=call.caller
        )
        return json.dumps({"status": status})

    def copy_out(self, call: Call) -> str:
        """Write a path of a workload to a file as a tar stream; options are space separated: whole, follow."""
        name, path, options = call.arguments
        pid = self._target(name).pid
        return json.dumps(asdict(copying.copy("pack", pid, path, call.descriptors[0], options.split())))

    def copy_in(self, call: Call) -> str:
        """Unpack a tar stream from a file at a path of a workload; options are space separated: keep-owner, contents.

        With contents the path is a folder, or becomes one. Else what comes is put into it if it is a folder; if not, it
        is one file or folder, and is called as the path says.
        """
        name, path, options = call.arguments
        pid = self._target(name).pid
        copied = copying.copy("unpack", pid, path, call.descriptors[0], options.split())
        event_log.write("copy", overview.called(name, self._layout), path=path, files=str(copied.files))
        return json.dumps(asdict(copied))

    def diff(self, call: Call) -> str:
        """Return the paths that a workload has added, changed and deleted: a list of kind (A, C, D) and path."""
        found = difference.of_workload(call.arguments[0], self._layout, self._machine)
        return json.dumps([asdict(change) for change in found])

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        copies = ("name", "path", "options", "stream")
        files = ("name", "request", "stdin", "stdout", "stderr")
        return (
            Method(name="Exec", handler=self.exec, strings=2, descriptors=3, root_only=True, takes=files),
            Method(name="CopyOut", handler=self.copy_out, strings=3, descriptors=1, root_only=True, takes=copies),
            Method(name="CopyIn", handler=self.copy_in, strings=3, descriptors=1, root_only=True, takes=copies),
            Method(name="Diff", handler=self.diff, strings=1, root_only=True, takes=("name",)),
        )
