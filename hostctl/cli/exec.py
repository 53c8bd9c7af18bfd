"""``hostctl exec``: a command inside a workload, through the agent, on these files or on a terminal of its own."""

from __future__ import annotations

import argparse
import os
import sys

from hostctl.agent import client
from hostctl.agent.request import Request
from hostctl.errors import EXIT_NOT_BEGUN, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_USAGE, UsageError, ending_with

EXAMPLES = """examples:
  hostctl exec -it site -- /bin/sh
  hostctl exec --user www-data site id
  hostctl exec -w /srv -e LEVEL=debug site -- ./report
  tar c data | hostctl exec -i site -- tar x -C /srv

The exit status is that of the command; 127 if the workload has no such program, 126 if it cannot be run, 125 if nothing
was run for another reason, 2 for a mistake in what was asked. Options of ours stand before the name. Standard input
goes to the command with -i only. When input and output are a terminal the command gets one of its own, as with -it, and
-T prevents it; this terminal itself is never open in the workload.
"""
OWN = (EXIT_USAGE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND)  # statuses that say more than that the command was not begun


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument("-t", "--tty", action="store_true", help="on a terminal; an error if there is none")
    terminal.add_argument("-T", "--no-tty", action="store_true", help="never on a terminal")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="by the workload's own names, or numbers")
    parser.add_argument("-e", "--env", metavar="NAME=VALUE", action="append", default=[], help="set a variable")
    parser.add_argument("-w", "--workdir", metavar="PATH", default="", help="where to run it")
    parser.add_argument("workload", help="its name")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND …", help="what to run")


def request(arguments: argparse.Namespace, *, terminal: bool) -> Request:
    """Return what to ask of the agent.

    Args:
        arguments: of the command line.
        terminal: whether standard input and output are one.

    Raises:
        UsageError: no command, a user without a name, or a terminal is wanted and there is none.
    """
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise UsageError("no command was given", hint="hostctl exec NAME -- COMMAND …")
    if arguments.tty and not terminal:
        raise UsageError("--tty: standard input and output are no terminal")
    if arguments.user == "":  # what was meant, by a variable perhaps, is not known
        raise UsageError("--user: the user has no name", hint="without --user it is the workload's own")
    env = list(arguments.env)
    wanted = terminal and not arguments.no_tty
    if wanted and not any(entry.startswith("TERM=") for entry in env):
        env.append(f"TERM={os.environ.get('TERM', 'xterm')}")
    return Request(
        argv=tuple(words), terminal=wanted, user=arguments.user or "", workdir=arguments.workdir, env=tuple(env)
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its status."""
    wanted = request(arguments, terminal=os.isatty(0) and os.isatty(1))
    sys.stdout.flush()
    with ending_with(EXIT_NOT_BEGUN, but=OWN):
        if not wanted.terminal:
            from hostctl.cli import relay  # noqa: PLC0415 - one of the two is enough

            with relay.files(interactive=arguments.interactive) as files:
                return client.execute(arguments.workload, wanted, files)
        from hostctl.cli import terminal  # noqa: PLC0415 - only for people

        return terminal.run(lambda files: client.execute(arguments.workload, wanted, files))
