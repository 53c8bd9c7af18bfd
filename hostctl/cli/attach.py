"""``hostctl attach``: the output of a workload as it comes, until it ends.

A workload has no standard input: systemd gives it none, and nothing of ours stays beside it that could. So there is
nothing to type into, and Ctrl-C detaches.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from hostctl.agent import unit_control
from hostctl.agent.machine import SystemdMachine, workload_unit
from hostctl.agent.overview import NotRunningError, require
from hostctl.cli.logs import command, require_journal
from hostctl.cli.output import OutputError
from hostctl.layout import HostLayout
from hostctl.run import CommandError, CommandNotFoundError

EXAMPLES = """examples:
  hostctl attach site         Ctrl-C detaches; the workload runs on

Workloads have no standard input, so what is typed goes nowhere: `hostctl exec -it site -- sh` is for that. The exit
status is that of the workload. It ends when nobody reads its output any more, as after `| head`; the workload runs on.
"""
CHUNK = 65536
LAST_LINES = 2.0  # seconds without a line, after an end, in which the journal may be behind


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--no-stdin", action="store_true", help="as it always is")
    parser.add_argument("workload", help="its name")


def run(arguments: argparse.Namespace) -> int:
    """Show what comes, and return the workload's status."""
    require_journal()
    layout = HostLayout()
    key = require(arguments.workload, layout).record.key(arguments.workload)
    unit = workload_unit(key)
    state = SystemdMachine(layout).states([unit]).get(unit)
    if state is None or not state.main_pid:
        raise NotRunningError(
            f"workload {arguments.workload} is not running", hint=f"hostctl start {arguments.workload}"
        )
    return follow(key, lines="0")


def follow(workload: str, *, lines: str, output: int = 1) -> int:
    """Show what this run of a workload prints until it ends, and return its exit status.

    Args:
        workload: what its unit is called by.
        lines: how many of those before, or ``all``.
        output: where it is shown.

    Raises:
        CommandNotFoundError: journalctl is not installed.
        CommandError: it ended.
        BrokenPipeError: nobody reads what is shown any more.
        OutputError: what is shown cannot be written.
    """
    unit = workload_unit(workload)
    # Without this what a next run prints would follow, and there might be no end of it.
    invocation = unit_control.show([unit], ["InvocationID"])[0].get("InvocationID", "")
    words = command([unit], follow=True, lines=lines, invocation=invocation)
    try:
        # It never ends by itself, so not through run(); and a Ctrl-C is not for it, which shows the end too.
        follower = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error
    with follower:
        try:
            assert follower.stdout is not None  # noqa: S101 - it is a pipe
            shown = Shown(source=follower.stdout.fileno(), target=output)
            status = unit_control.await_end(unit, wait=shown.until)
            shown.rest(LAST_LINES)
        finally:
            follower.terminate()
    return status


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What a follower prints, on its way to who reads it: as fast as they do, and without a loss."""

    source: int
    target: int

    def until(self, ended: int) -> None:
        """Hand on what comes until a descriptor can be read.

        Raises:
            CommandError: the follower has ended before that.
            BrokenPipeError, OutputError: as :func:`follow`.
        """
        while ended not in (ready := self._ready(ended)):
            if self.source in ready and not self._hand_on():
                raise CommandError("journalctl ended before the workload did", hint="`hostctl logs` has all lines")

    def rest(self, seconds: float) -> None:
        """Hand on what there is until nothing came for so long, which is counted from when all was written."""
        while self.source in self._ready(seconds=seconds) and self._hand_on():
            pass

    def _ready(self, *others: int, seconds: float | None = None) -> Collection[int]:
        """Return which of the source and others can be read; none if none can after so many seconds."""
        look = select.poll()
        look.register(self.target, 0)  # tells only that its reader has gone
        for descriptor in (self.source, *others):
            look.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in look.poll(None if seconds is None else seconds * 1000)}
        if self.target in ready:
            raise BrokenPipeError(errno.EPIPE, "nobody reads what is shown")
        return ready

    def _hand_on(self) -> bool:
        """Write what has come; return whether more may come."""
        data = os.read(self.source, CHUNK)
        left = data
        try:
            while left:
                left = left[os.write(self.target, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno == errno.EIO:  # of a terminal that was closed
                raise BrokenPipeError(errno.EPIPE, "the terminal has gone") from error
            raise OutputError(f"it cannot be written: {error.strerror}", hint="`hostctl logs` has all lines") from error
        return bool(data)
