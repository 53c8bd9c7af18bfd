"""``hostctl run``: a workload that is not in host.yaml, where that allows it."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from hostctl.agent import bus
from hostctl.agent.bus import AgentUnavailableError
from hostctl.cli.attach import follow
from hostctl.cli.logs import require_journal
from hostctl.cli.rm import MISSING
from hostctl.cli.run_options import describe, settings
from hostctl.errors import EXIT_NOT_BEGUN, HostctlError, UsageError, ending_with
from hostctl.progress import Progress

EXAMPLES = """examples:
  hostctl run --rm registry.example/tool:1 report --all
  hostctl run -d --name cache -p 6379:6379 -m 64m -v data:/data --network back registry.example/redis:7
  hostctl logs run-cache
  hostctl rm cache

host.yaml must have `allow_run: true`. The workload's name begins with run-. It is confined and limited as a declared
one, and there until `hostctl rm`, or until a host.yaml is applied; a boot starts it again only with --restart. Without
-d its output is shown until it ends, and --rm removes it then. The exit status is its own, or 125 if it did not start,
or 2 for a mistake in the options. Ctrl-C is passed on to it, a second one leaves it running; a terminal that is closed
asks it to end. What is interrupted before it has started leaves nothing behind. When nobody reads the output any more,
as after `| head`, it is left running, or with --rm stopped and removed. Volumes are declared ones, or those that
`hostctl volume create` made.
"""
CLOSED = (signal.SIGTERM, signal.SIGHUP)
REQUESTS = (signal.SIGINT, *CLOSED)
Handler = Callable[[int, FrameType | None], object] | signal.Handlers


class NotStartedError(HostctlError):
    """What was to be run did not even start."""

    id = "run-not-started"
    exit_code = EXIT_NOT_BEGUN


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
def handled(handler: Handler, numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Let requests to end be handled by ``handler``. What this process was told to ignore, as by nohup, it ignores."""
    former = {number: signal.getsignal(number) for number in numbers}
    for number in (each for each, was in former.items() if was is not signal.SIG_IGN):
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in former.items():
            signal.signal(number, was)


def leave(number: int, frame: FrameType | None) -> None:
    """End this process in order, as by a Ctrl-C."""
    raise KeyboardInterrupt


def passing_on(name: str) -> Handler:
    """Return what passes a request to end on to a workload, whose end is then waited for.

    A second one is for this process, but for that of a closed terminal, of which the shell and the kernel both tell.
    """
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number != signal.SIGHUP:
            raise KeyboardInterrupt
        if not asked:
            asked = True
            wanted = signal.SIGTERM if number == signal.SIGHUP else number  # many a server only reads its files anew
            with suppress(HostctlError):  # it has ended by itself; or it runs on, and there is the second one
                bus.call("Kill", name, str(int(wanted)))

    return handle


def remove(name: str) -> None:
    """Remove a workload. What came of it is what counts, so a failure to is only told."""
    with handled(signal.SIG_IGN, CLOSED):
        try:
            bus.call("Remove", name)
        except HostctlError as error:
            if error.id != MISSING:
                print(f"note: {name} stays: {error.brief}; `hostctl rm {name}` removes it", file=sys.stderr)


def begin(name: str, wanted: Mapping[str, object], on_progress: Callable[[str], None]) -> Any:  # noqa: ANN401 - JSON
    """Let the agent run a workload. If there is no answer nothing of it stays: the agent sees to that, if it lives."""
    made_up = secrets.token_hex(4)
    try:
        return json.loads(bus.call("Run", name or made_up, json.dumps(wanted), on_progress=on_progress))
    except (KeyboardInterrupt, AgentUnavailableError):
        if not name:  # of this name there is no other
            with suppress(HostctlError):
                bus.call("Remove", made_up)
        raise


def shown(answer: Any, arguments: argparse.Namespace) -> int:  # noqa: ANN401 - the agent's document
    """Show what was run until its end, or if detached its name."""
    name = str(answer["workload"])
    for note in () if arguments.json else answer["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if not answer["started"]:
        hint = "" if arguments.rm else f"hostctl logs --all-messages {name}; `hostctl rm {name}` removes it"
        raise NotStartedError(f"workload {name} did not start", hint=hint)
    if arguments.detach:
        print(json.dumps(answer) if arguments.json else name)
        return 0
    with handled(passing_on(name), REQUESTS):
        return follow(name, lines="all")


def run(arguments: argparse.Namespace) -> int:
    """Run it, and unless detached wait for its end."""
    check(arguments)
    wanted = settings(arguments)
    progress = Progress(quiet=arguments.json or not arguments.detach)
    with handled(leave, CLOSED):
        with ending_with(EXIT_NOT_BEGUN):
            if not arguments.detach:
                require_journal()
            answer = begin(arguments.name, wanted, progress.line)
        name = str(answer["workload"])
        try:
            return shown(answer, arguments)
        except (KeyboardInterrupt, BrokenPipeError):
            if not arguments.rm:
                print(f"note: {name} runs on; `hostctl stop {name}` ends it", file=sys.stderr)
            raise
        finally:
            if arguments.rm:
                remove(name)
