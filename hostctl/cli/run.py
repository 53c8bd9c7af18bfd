"""``hostctl run``: a workload that is not in host.yaml, where that allows it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hostctl.agent import bus, unit_control
from hostctl.agent.machine import workload_unit
from hostctl.cli.attach import follow
from hostctl.cli.logs import require_journal
from hostctl.errors import HostctlError, UsageError
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl run --rm registry.example/tool:1 report --all
  hostctl run -d --name cache -p 6379:6379 --memory 64M registry.example/redis:7
  hostctl logs run-cache
  hostctl rm cache

host.yaml must have `allow_run: true`. The workload's name begins with run-. It is confined and limited as a declared
one, and there until `hostctl rm`, or until a host.yaml is applied; a boot starts it again only with --restart. Without
-d its output is shown until it ends, and the exit status is its own, or 125 if it did not start; --rm removes it then.
Ctrl-C is passed on to it, a second one leaves it running. Volumes must be declared.
"""


class NotStartedError(HostctlError):
    """What was to be run did not even start."""

    id = "run-not-started"
    exit_code = 125  # as Docker


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-d", "--detach", action="store_true", help="print its name and let it run")
    parser.add_argument("--rm", action="store_true", help="remove it when it has ended")
    describe(parser)


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is run."""
    parser.add_argument("--name", default="", metavar="NAME", help="after run-; made up by default")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    parser.add_argument("-p", "--publish", action="append", default=[], metavar="HOST:PORT", help="publish a port")
    parser.add_argument("-v", "--volume", action="append", default=[], metavar="NAME:/PATH", help="mount a volume")
    parser.add_argument("--network", metavar="NETWORK", help="as in host.yaml")
    parser.add_argument("--memory", "-m", metavar="SIZE", help="most memory")
    parser.add_argument("--cpus", metavar="N", help="processor time in cores")
    parser.add_argument("--pids", "--pids-limit", metavar="N", help="most processes")
    parser.add_argument("-u", "--user", metavar="UID[:GID]", help="numbers")
    parser.add_argument("--read-only", action="store_true", help="the root file system cannot be written")
    parser.add_argument("--restart", default="no", choices=("no", "on-failure", "always"), help="default: no")
    parser.add_argument(
        "--pull",
        choices=("missing", "always", "never"),
        help="ask the registry: if the image is not here (default), in any case, or not at all",
    )
    parser.add_argument("--entrypoint", metavar="PROGRAM", help="instead of the image's")
    parser.add_argument("image", help="registry/name:tag or registry/name@sha256:…")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="instead of the image's command")


def settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the workload's settings as host.yaml has them.

    Raises:
        UsageError: a variable without a value.
    """
    if any("=" not in entry[1:] for entry in arguments.env):
        raise UsageError("--env: NAME=VALUE")
    wanted = {
        "image": arguments.image,
        "command": [arguments.entrypoint] if arguments.entrypoint else None,
        "args": arguments.args or None,
        "env": dict(entry.split("=", 1) for entry in arguments.env) or None,
        "ports": arguments.publish or None,
        "volumes": arguments.volume or None,
        "network": arguments.network,
        "memory": arguments.memory,
        "cpus": arguments.cpus,
        "pids": arguments.pids,
        "user": arguments.user,
        "read_only": arguments.read_only or None,
        "restart": arguments.restart,
        "pull_policy": arguments.pull,
    }
    return _numbers({name: value for name, value in wanted.items() if value is not None})


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be together.

    Raises:
        UsageError: there are such.
    """
    if arguments.detach and arguments.rm:
        raise UsageError("--rm waits for the end, --detach does not")
    if not arguments.detach and arguments.restart != "no":
        raise UsageError("--restart needs --detach: there is no end to wait for")


def _numbers(wanted: dict[str, object]) -> dict[str, object]:
    """Return the settings with numbers as numbers where they are some: the declaration says what is wrong otherwise."""
    made = dict(wanted)
    for name, kind in (("pids", int), ("cpus", float)):
        try:
            made[name] = kind(str(wanted[name]))
        except (KeyError, ValueError):
            continue
    return made


@contextmanager
def passed_on(name: str) -> Iterator[None]:
    """Pass a request to end on to a workload, whose end is then waited for; a second one is for this process."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        with suppress(HostctlError):  # it has ended by itself; or it runs on, and there is the second one
            bus.call("Kill", name, str(number))

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run(arguments: argparse.Namespace) -> int:
    """Run it, and unless detached wait for its end."""
    check(arguments)
    wanted = settings(arguments)
    if not arguments.detach:
        require_journal()
    progress = Progress(quiet=not arguments.detach)
    answer = json.loads(bus.call("Run", arguments.name, json.dumps(wanted), on_progress=progress.line))
    name = str(answer["workload"])
    try:
        for note in answer["notes"]:
            print(f"note: {note}", file=sys.stderr)
        if not answer["started"]:
            hint = "" if arguments.rm else f"hostctl logs --all-messages {name}; `hostctl rm {name}` removes it"
            raise NotStartedError(f"workload {name} did not start", hint=hint)
        if arguments.detach:
            print(name)
            return 0
        unit = workload_unit(name)
        invocation = unit_control.show([unit], ["InvocationID"])[0].get("InvocationID", "")
        with passed_on(name):
            return follow(name, lines="all", invocation=invocation)
    except KeyboardInterrupt:
        if not arguments.rm:
            print(f"note: {name} runs on; `hostctl stop {name}` ends it", file=sys.stderr)
        raise
    finally:
        if arguments.rm:
            bus.call("Remove", name)
