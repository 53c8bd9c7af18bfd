"""``hostctl run``: a workload that is not in host.yaml, where that allows it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hostctl.agent import bus
from hostctl.cli.attach import follow
from hostctl.cli.logs import require_journal
from hostctl.cli.run_options import describe, settings
from hostctl.errors import HostctlError, UsageError
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl run --rm registry.example/tool:1 report --all
  hostctl run -d --name cache -p 6379:6379 -m 64m -v data:/data --network back registry.example/redis:7
  hostctl logs run-cache
  hostctl rm cache

host.yaml must have `allow_run: true`. The workload's name begins with run-. It is confined and limited as a declared
one, and there until `hostctl rm`, or until a host.yaml is applied; a boot starts it again only with --restart. Without
-d its output is shown until it ends, and the exit status is its own, or 125 if it did not start; --rm removes it then.
Ctrl-C is passed on to it, a second one leaves it running. When nobody reads the output any more, as after `| head`, it
is left running, or with --rm stopped and removed. Volumes are declared ones, or those that `hostctl volume create`
made.
"""


class NotStartedError(HostctlError):
    """What was to be run did not even start."""

    id = "run-not-started"
    exit_code = 125  # as Docker


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-d", "--detach", action="store_true", help="print its name and let it run")
    parser.add_argument("--rm", action="store_true", help="remove it when it has ended")
    parser.add_argument("--json", action="store_true", help="with -d, print a JSON document")
    describe(parser)


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be together.

    Raises:
        UsageError: there are such.
    """
    if arguments.detach and arguments.rm:
        hint = "without --detach; or `hostctl wait NAME; hostctl rm NAME` later"
        raise UsageError("--rm waits for the end, --detach does not", hint=hint)
    if arguments.json and not arguments.detach:
        raise UsageError("--json needs --detach: what is printed otherwise is the workload's")
    if not arguments.detach and arguments.restart != "no":
        raise UsageError("--restart needs --detach: there is no end to wait for")


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
    progress = Progress(quiet=arguments.json or not arguments.detach)
    answer = json.loads(bus.call("Run", arguments.name, json.dumps(wanted), on_progress=progress.line))
    name = str(answer["workload"])
    try:
        for note in () if arguments.json else answer["notes"]:
            print(f"note: {note}", file=sys.stderr)
        if not answer["started"]:
            hint = "" if arguments.rm else f"hostctl logs --all-messages {name}; `hostctl rm {name}` removes it"
            raise NotStartedError(f"workload {name} did not start", hint=hint)
        if arguments.detach:
            print(json.dumps(answer) if arguments.json else name)
            return 0
        with passed_on(name):
            return follow(name, lines="all")
    except (KeyboardInterrupt, BrokenPipeError):
        if not arguments.rm:
            print(f"note: {name} runs on; `hostctl stop {name}` ends it", file=sys.stderr)
        raise
    finally:
        if arguments.rm:
            bus.call("Remove", name)
