"""Runs a command inside a running workload: joins its cgroup, so that its limits hold, then ``crun exec``.

The command gets the container's own process settings (capabilities, no new privileges, user, folder, environment, with
its secrets) from the config.json that it was started by,
as a JSON document with numbers only: the runtime never resolves a user by name. On a terminal the runtime makes a
pseudo terminal inside the container and hands its other end to the agent, which hands it on to the caller: nothing of
ours copies what is typed, and the caller's own terminal is never open inside the container. What the runtime has to say
itself comes in a log of its own, and so is told from what a command says and ends with.

Nothing runs on for a caller who has gone. A terminal is hung up by that, and what is on it has time to end; the rest
is killed, with what it has started, so that no thread waits for good.
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from hostctl.agent.caller import Caller
from hostctl.agent.cgroups import cgroup_of
from hostctl.agent.ending import end, end_started
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.overview import NotRunningError
from hostctl.agent.request import Request
from hostctl.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, HostctlError
from hostctl.image import retention
from hostctl.layout import HostLayout
from hostctl.run import ENVIRONMENT, tail
from hostctl.workload import accounts
from hostctl.workload.accounts import Account

TERMINAL_SECONDS = 30.0  # in which the runtime must have made the terminal
HANGUP_SECONDS = 10.0  # that a program has to end in after its terminal was hung up
ROUND_SECONDS = 0.1  # after which is looked again what is to be ended: the runtime may just be starting it
ROUNDS = 50


class ExecError(HostctlError):
    """A command cannot be run in a workload."""

    id = "exec-failed"


class UnknownCommandError(ExecError):
    """The workload has no such program, or not the folder that it is to run in."""

    id = "exec-not-found"
    exit_code = EXIT_NOT_FOUND


class RefusedCommandError(ExecError):
    """The workload has the program, and it cannot be run."""

    id = "exec-refused"
    exit_code = EXIT_NOT_EXECUTABLE


def process_document(bundle: bytes, request: Request, account: Account | None = None) -> bytes:
    """Return the JSON for ``crun exec --process`` (OCI runtime specification, "process").

    Args:
        bundle: the container's config.json.
        request: what to run.
        account: as whom; None is the container's own user.
    """
    process = dict(json.loads(bundle)["process"])
    process["args"] = list(request.argv)
    process["terminal"] = request.terminal
    process["noNewPrivileges"] = True
    names = {variable.partition("=")[0] for variable in request.env}
    inherited = [variable for variable in process.get("env", []) if variable.partition("=")[0] not in names]
    process["env"] = [*inherited, *request.env]
    if request.workdir:
        process["cwd"] = request.workdir
    if account is not None:
        process["user"] = {"uid": account.uid, "gid": account.gid, "additionalGids": list(account.groups)}
        capabilities = process.get("capabilities")
        if account.uid == 0 and capabilities:  # what the bounding set allows, as any root user of the workload has
            bounding = capabilities.get("bounding", [])
            process["capabilities"] = {**capabilities, "effective": bounding, "permitted": bounding}
    return json.dumps(process).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where to run: a workload's name, its first process on the host, and the config.json that it was started by."""

    name: str
    pid: int
    bundle: Path


def target(name: str, bundle: Path, machine: Machine) -> Target:
    """Return where a workload runs.

    Args:
        name: of it.
        bundle: the config.json that it was started by, in a folder that is called as its units and its container are.
        machine: the running system.

    Raises:
        NotRunningError: it does not, or it is paused.
    """
    key = bundle.parent.name
    state = machine.states([workload_unit(key)]).get(workload_unit(key))
    if state is None or not state.is_active or not state.main_pid:
        raise NotRunningError(f"workload {name} is not running", hint=f"hostctl start {name}")
    if state.paused:
        raise NotRunningError(f"workload {name} is paused", hint=f"hostctl unpause {name}")
    return Target(name=key, pid=state.main_pid, bundle=bundle)


def account_in(where: Target, user: str) -> Account | None:
    """Return the numbers of a user of the workload; None for its own.

    Raises:
        UnknownUserError: the workload's files do not name it.
    """
    if not user:
        return None
    root = os.open(f"/proc/{where.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return accounts.resolve(user, accounts.read(root, "etc/passwd"), accounts.read(root, "etc/group"))
    finally:
        os.close(root)


def execute(
    where: Target, request: Request, *, layout: HostLayout, descriptors: Sequence[int], caller: Caller | None = None
) -> int:
    """Run a command in a workload and return its exit status (128 + number when a signal ended it).

    Args:
        where: the workload.
        request: the command.
        layout: the machine's paths.
        descriptors: standard input, output and error; with a terminal the first is a Unix socket that its other end
            is sent to, and the others are not used.
        caller: whose going ends the command; without one it has all the time that it takes.

    Raises:
        NotRunningError: the workload has ended since it was looked at.
        UnknownUserError: there is no such user.
        UnknownCommandError: there is no such program.
        RefusedCommandError: it cannot be run.
        ExecError: the runtime made no terminal, or nobody was there to take it.
    """
    caller = caller or Caller()
    folder = layout.runtime / "exec"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = process_document(where.bundle.read_bytes(), request, account_in(where, request.user))
    with (
        NamedTemporaryFile(dir=folder, prefix=f"{where.name}.", suffix=".json") as process,
        NamedTemporaryFile(dir=folder, prefix=f"{where.name}.", suffix=".log") as log,
    ):
        process.write(document)
        process.flush()
        words = ["crun", "--cgroup-manager=disabled", f"--log=file:{log.name}", "exec", "--process", process.name]
        if request.terminal:
            status = _on_terminal(where, words, folder, descriptors[0], caller)
        else:
            standard_in, standard_out, standard_error = descriptors
            with _inside(where, [*words, where.name], standard_in, standard_out, standard_error) as child:
                status = wait_for(child, caller)
        said = log.read() if status else b""
    if said:
        raise refusal(where, request, said)
    return status if status >= 0 else 128 - status


def refusal(where: Target, request: Request, log: bytes) -> HostctlError:
    """Return the error for what the runtime says in its log, where nothing of the command's own comes.

    Args:
        where: the workload.
        request: the command, which was not run.
        log: as crun 1.21 writes it: what could not be done, and the text of an error number.
    """
    said = tail(log.partition(b"putenv `")[0]) or "the environment cannot be set"  # what would follow may be a secret
    if said.startswith(("error opening file `", "the container `")):  # it has no state of it any more
        return NotRunningError(f"workload {where.name} does not run any more", details=said)
    leaf = UnknownCommandError if said.endswith(os.strerror(errno.ENOENT)) else RefusedCommandError
    return leaf(f"{request.argv[0]!r} cannot be run in workload {where.name}", details=said)


def recover(layout: HostLayout, proc: Path = Path("/proc")) -> None:
    """End what an agent that was killed was running: who asked for it has no way to it any more.

    The runtime is known by the file that told it what to run. It is in the workload's cgroup, so that what killed the
    agent and all that it had started did not kill this.
    """
    folder = layout.runtime / "exec"
    left = set(folder.iterdir()) if folder.is_dir() else set()
    if not left:
        return

    def is_meant(pid: str) -> bool:
        return not left.isdisjoint(map(Path, _command_line(proc / pid)))

    for pid in (path.name for path in proc.iterdir() if path.name.isdigit()):
        if is_meant(pid):
            end(int(pid), partial(is_meant, pid))
    retention.discard(left)


def _command_line(process: Path) -> list[str]:
    """Return the words that a process was started with; none if it has ended."""
    try:
        return os.fsdecode((process / "cmdline").read_bytes()).split("\0")
    except OSError:
        return []


@contextmanager
def _inside(
    where: Target, argv: Sequence[str], standard_in: int, standard_out: int, standard_error: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the runtime in the workload's cgroup; if the block fails, what it runs is ended.

    Raises:
        NotRunningError: the workload has ended since it was looked at.
    """
    try:
        cgroup = os.open(cgroup_of(where.pid) / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        hint = f"hostctl ps -a -f name={where.name}"
        raise NotRunningError(f"workload {where.name} has just ended", hint=hint) from error
    try:
        child = subprocess.Popen(
            argv,
            stdin=standard_in,
            stdout=standard_out,
            stderr=standard_error,
            env=dict(ENVIRONMENT),
            # the child must be in the cgroup before it is crun; a single write is safe between fork and exec
            preexec_fn=lambda: os.write(cgroup, b"0"),  # noqa: PLW1509
        )
    finally:
        os.close(cgroup)
    try:
        yield child
    except BaseException:
        _end(child)
        raise


def wait_for(child: subprocess.Popen[bytes], caller: Caller, patience: float = 0.0) -> int:
    """Return the status of the runtime; what it runs is ended ``patience`` seconds after the caller has gone."""
    own = os.pidfd_open(child.pid)
    try:
        with caller.watch() as gone:
            either = select.poll()
            for descriptor in (own, gone):
                either.register(descriptor, select.POLLIN)
            either.poll()
    finally:
        os.close(own)
    if caller.has_gone:
        _end(child, patience)
    return child.wait()


def _end(child: subprocess.Popen[bytes], patience: float = 0.0) -> None:
    """End what the runtime has started, which ends the runtime; at last the runtime itself."""
    for seconds in (patience, *[ROUND_SECONDS] * ROUNDS):
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            end_started(child.pid)
        else:
            return
    child.kill()
    child.wait()


def _on_terminal(where: Target, words: Sequence[str], folder: Path, channel: int, caller: Caller) -> int:
    """Run on a terminal that the runtime makes inside the container, and send its other end over ``channel``."""
    with TemporaryDirectory(dir=folder) as own, socket.socket(socket.AF_UNIX) as listener:
        path = Path(own, "console")
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(TERMINAL_SECONDS)
        said = Path(own, "said")
        with said.open("wb") as output:
            argv = [*words, "--console-socket", str(path), where.name]
            with _inside(where, argv, subprocess.DEVNULL, output.fileno(), output.fileno()) as child:
                master = _accept(listener, child)
                if master is None:
                    raise ExecError("the command cannot be run on a terminal", details=tail(said.read_bytes()))
                _hand_over(master, channel)
                return wait_for(child, caller, HANGUP_SECONDS)


def _hand_over(master: int, channel: int) -> None:
    """Send the master end of a terminal to the caller; nobody else keeps it, so that it is hung up when they go."""
    try:
        with socket.socket(fileno=os.dup(channel)) as connection:
            connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
    except OSError as error:
        raise ExecError("the terminal cannot be handed over", details=str(error)) from error
    finally:
        os.close(master)


def _accept(listener: socket.socket, child: subprocess.Popen[bytes]) -> int | None:
    """Return the master end that the runtime sends over its console socket; None if it ends before."""
    listener.settimeout(0.1)
    for _ in range(int(TERMINAL_SECONDS / 0.1)):
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if child.poll() is not None:
                return None
            continue
        with connection:
            connection.settimeout(TERMINAL_SECONDS)
            _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
            return descriptors[0] if descriptors else None
    return None
