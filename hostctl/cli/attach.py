"""``hostctl attach``: the output of a workload as it comes, until it ends.

A workload has no standard input: systemd gives it none, and nothing of ours stays beside it that could. So there is
nothing to type into, and Ctrl-C detaches.
"""

from __future__ import annotations

import argparse
import subprocess
from contextlib import suppress

from hostctl.agent import unit_control
from hostctl.agent.machine import SystemdMachine, workload_unit
from hostctl.agent.overview import NotRunningError, require
from hostctl.cli.logs import command, require_journal
from hostctl.layout import HostLayout
from hostctl.run import CommandNotFoundError

EXAMPLES = """examples:
  hostctl attach site         Ctrl-C detaches; the workload runs on

Workloads have no standard input, so what is typed goes nowhere: `hostctl exec -it site -- sh` is for that. The exit
status is that of the workload.
"""
LAST_LINES = 2.0  # seconds that the journal may be behind an end


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


def follow(workload: str, *, lines: str, invocation: str = "") -> int:
    """Show what a workload prints until it ends, and return its exit status.

    Args:
        workload: what its unit is called by.
        lines: how many of those before, or ``all``.
        invocation: systemd's number of the run that they must be of.

    Raises:
        CommandNotFoundError: journalctl is not installed.
    """
    try:
        words = command([workload_unit(workload)], follow=True, lines=lines, invocation=invocation)
        # On this terminal, so not through run(); but its Ctrl-C is not for the follower, which shows the end too.
        follower = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error
    try:
        status = unit_control.await_end(workload_unit(workload))
        with suppress(subprocess.TimeoutExpired):
            follower.wait(LAST_LINES)
    finally:
        follower.terminate()
        follower.wait()
    return status
