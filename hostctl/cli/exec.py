"""``hostctl exec``: a command inside a workload, through the agent, on this terminal."""

from __future__ import annotations

import argparse
import os
import sys

from hostctl.agent import client
from hostctl.agent.execution import Request
from hostctl.config.values import WorkloadUser
from hostctl.errors import UsageError

EXAMPLES = """examples:
  hostctl exec site -- /bin/sh
  hostctl exec --user 1000 site -- id
  tar c data | hostctl exec site -- tar x -C /srv

The exit status is that of the command.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-u", "--user", metavar="UID[:GID]", help="numbers; the container's own by default")
    parser.add_argument("-e", "--env", metavar="NAME=VALUE", action="append", default=[], help="set a variable")
    parser.add_argument("workload", help="its name")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run")


def request(arguments: argparse.Namespace, *, terminal: bool) -> Request:
    """Return what to ask of the agent.

    Raises:
        UsageError: no command, or a user that is not numbers.
    """
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise UsageError("no command was given", hint="hostctl exec NAME -- COMMAND …")
    user = None
    if arguments.user is not None:
        try:
            user = WorkloadUser.parse(arguments.user)
        except ValueError as error:
            raise UsageError(f"--user {arguments.user}: {error}") from error
    return Request(
        argv=tuple(words),
        terminal=terminal,
        uid=user.uid if user else None,
        gid=user.gid if user else None,
        env=tuple(arguments.env),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its status."""
    terminal = os.isatty(0) and os.isatty(1)
    sys.stdout.flush()
    return client.execute(arguments.workload, request(arguments, terminal=terminal), (0, 1, 2))
