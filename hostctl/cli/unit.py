"""``hostctl start``, ``stop``, ``restart``, ``kill``, ``pause`` and ``unpause`` of workloads, through the agent."""

from __future__ import annotations

import argparse
import sys

from hostctl.agent import client
from hostctl.cli import many
from hostctl.errors import UsageError

EXAMPLES = """examples:
  hostctl start web app
  hostctl restart site        replicas one after the other, each when the one before is healthy
  hostctl stop web app        until the next start, change in host.yaml or boot
  hostctl stop -t 5 site      what is not down after 5 seconds is killed
  hostctl kill -s HUP site
  hostctl pause site          nothing of it runs, its memory stays, its health is not checked
  hostctl unpause site

Several are handled at once, and one that fails stops no other. A workload that is killed is started again when its
declaration says so (`restart:`); `hostctl stop` keeps it down, also when the image under its tag or what it requires
changes. One that is paused runs on when it gets a signal, and is not paused any more when it was changed or restarted.
The end of a job is not waited for, and a job that was completed runs again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, which depend on the verb that the parser is for."""
    verb = parser.prog.rpartition(" ")[2]
    if verb in ("stop", "restart"):
        text = "then it is killed; what is declared is the most, and the default"
        parser.add_argument("-t", "--time", "--timeout", type=float, metavar="SECONDS", help=text)
        parser.add_argument(
            "-s", "--signal", metavar="SIGNAL", help="KILL kills at once; others are declared, stop_signal"
        )
    if verb == "kill":
        parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="name or number (default: KILL)")
    parser.add_argument("workload", nargs="+", help="names")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def rest_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return what the agent's method takes after the name."""
    if arguments.verb in ("stop", "restart"):
        if arguments.signal is not None and arguments.signal.upper().removeprefix("SIG") not in ("KILL", "9"):
            hint = f"`stop_signal` in host.yaml says it; `hostctl kill -s {arguments.signal} NAME` sends one"
            raise UsageError(f"--signal {arguments.signal}: a workload is stopped by the signal it declares", hint=hint)
        within = 0.0 if arguments.signal is not None else arguments.time
        return ("" if within is None else str(within),)
    return (arguments.signal,) if arguments.verb == "kill" else ()


def run(arguments: argparse.Namespace) -> int:
    """Let the agent do it."""
    rest = rest_of(arguments)

    def deed(name: str) -> None:
        if not client.control(arguments.verb, name, *rest):
            print(f"note: job {name} was started; `hostctl wait {name}` waits for its end", file=sys.stderr)

    return many.each(arguments.workload, deed, as_json=arguments.json)
