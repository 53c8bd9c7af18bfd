"""Runs a command inside a running workload: joins its cgroup, so that its limits hold, then ``crun exec``.

The command gets the container's own process settings (user, capabilities, no new privileges) from the bundle, as a
JSON document with numbers only: a user by name is never resolved.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from hostctl.agent.machine import Machine, workload_unit
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.layout import HostLayout
from hostctl.run import ENVIRONMENT


class ExecError(HostctlError):
    """A command cannot be run in a workload."""

    id = "exec-failed"


class NotRunningError(ExecError):
    """The workload is not up."""

    id = "workload-not-running"


class ExecRequestError(ExecError):
    """What was asked for cannot be understood."""

    id = "exec-request-invalid"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command to run. Without ``user`` it is the container's own."""

    argv: tuple[str, ...]
    terminal: bool = False
    uid: int | None = None
    gid: int | None = None
    env: tuple[str, ...] = field(default=())


def encode(request: Request) -> str:
    """Return the request as it goes over the bus."""
    return json.dumps(asdict(request))


def decode(text: str) -> Request:
    """Return the request that came over the bus.

    Raises:
        ExecRequestError: it is not one.
    """
    try:
        document = json.loads(text)
        request = Request(
            argv=tuple(str(word) for word in document["argv"]),
            terminal=bool(document["terminal"]),
            uid=None if document["uid"] is None else int(document["uid"]),
            gid=None if document["gid"] is None else int(document["gid"]),
            env=tuple(str(variable) for variable in document["env"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExecRequestError("the request is not one", details=repr(error)) from error
    if not request.argv or not request.argv[0]:
        raise ExecRequestError("no command was given")
    if any(number is not None and not 0 <= number < 65536 for number in (request.uid, request.gid)):
        raise ExecRequestError("user and group must be numbers from 0 to 65535")
    if any("=" not in variable[1:] for variable in request.env):
        raise ExecRequestError("variables are NAME=VALUE")
    return request


def process_document(bundle: bytes, request: Request) -> bytes:
    """Return the JSON for ``crun exec --process`` (OCI runtime specification, "process").

    Args:
        bundle: the container's config.json.
        request: what to run.
    """
    process = dict(json.loads(bundle)["process"])
    process["args"] = list(request.argv)
    process["terminal"] = request.terminal
    process["noNewPrivileges"] = True
    names = {variable.partition("=")[0] for variable in request.env}
    inherited = [variable for variable in process.get("env", []) if variable.partition("=")[0] not in names]
    process["env"] = [*inherited, *request.env]
    if request.uid is not None:
        process["user"] = {"uid": request.uid, "gid": request.gid or 0}
    return json.dumps(process).encode()


def cgroup_of(pid: int, root: Path = Path("/")) -> Path:
    """Return the folder of a process's cgroup (cgroups(7), version 2)."""
    for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return root / "sys/fs/cgroup" / line[3:].lstrip("/")
    raise NotRunningError(f"process {pid} is in no cgroup of version 2")


def execute(
    name: str,
    request: Request,
    *,
    bundle: Path,
    machine: Machine,
    layout: HostLayout,
    descriptors: Sequence[int],
) -> int:
    """Run a command in workload ``name`` and return its exit status (128 + number when a signal ended it).

    Args:
        name: the workload.
        request: the command.
        bundle: its config.json.
        machine: tells where it runs.
        layout: the machine's paths.
        descriptors: standard input, output and error.

    Raises:
        NotRunningError: the workload is not up.
    """
    state = machine.states([workload_unit(name)]).get(workload_unit(name))
    if state is None or not state.is_active or not state.main_pid:
        raise NotRunningError(f"workload {name} is not running", hint=f"hostctl start {name}")
    folder = layout.runtime / "exec"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cgroup = os.open(cgroup_of(state.main_pid) / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        with NamedTemporaryFile(dir=folder, prefix=f"{name}.", suffix=".json") as process:
            process.write(process_document(bundle.read_bytes(), request))
            process.flush()
            standard_in, standard_out, standard_error = descriptors
            child = subprocess.Popen(
                ["crun", "--cgroup-manager=disabled", "exec", "--process", process.name, name],
                stdin=standard_in,
                stdout=standard_out,
                stderr=standard_error,
                env=dict(ENVIRONMENT),
                # the child must be in the cgroup before it is crun; a single write is safe between fork and exec
                preexec_fn=lambda: os.write(cgroup, b"0"),  # noqa: PLW1509
            )
            status = child.wait()
    finally:
        os.close(cgroup)
    return status if status >= 0 else 128 - status
