"""``hostctl events``: what happens to workloads, as JSON lines, from the journal: as it comes, or as it came."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.agent import event_log
from hostctl.agent.event_log import Event
from hostctl.cli.logs import moment, require_journal
from hostctl.errors import EXIT_FAILED, UsageError
from hostctl.run import CommandNotFoundError

EXAMPLES = """examples:
  hostctl events                                  what comes, until Ctrl-C
  hostctl events --since 1h --until 0s            what came, then it ends
  hostctl events --filter name=site --filter action=die | jq -r .attributes.exit_status

One JSON object a line: time, type (workload, generation, volume, image, secret), action, name, attributes. systemd
tells of start, stop, die, restart, failed, oom; checks of health_status; the agent of kill, pause, pull, tag, apply and
others. What died of a failure has exit_code and exit_status, what ended well the result success. Of one kind of filter
(type, action or event, name, workload or container, volume, image) any may hold, of different kinds all must.
"""
FILTERS = ("type", "action", "name")
KINDS = ("workload", "volume", "image")  # of which a filter asks for the name: of an event of that type
DOCKERS = {"event": "action", "container": "workload"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--since", metavar="TIME", help="begin with what came since, as in `hostctl logs`")
    parser.add_argument("--until", metavar="TIME", help="end with what came until then, instead of following")
    parser.add_argument(
        "-f", "--filter", action="append", default=[], metavar="KIND=VALUE", help="only such; see below"
    )
    parser.add_argument("--json", action="store_true", help="as it always is")


def filters(texts: Sequence[str]) -> dict[str, set[str]]:
    """Return the wanted values by kind.

    Raises:
        UsageError: a filter of an unknown kind.
    """
    wanted: dict[str, set[str]] = {}
    for text in texts:
        kind, equals, value = text.partition("=")
        kind = DOCKERS.get(kind, kind)
        if not equals or kind not in (*FILTERS, *KINDS):
            known = ", ".join((*FILTERS, *KINDS, *DOCKERS))
            raise UsageError(f"--filter {text}: no such filter", hint=f"KIND=VALUE with {known}")
        wanted.setdefault(kind, set()).add(value)
    return wanted


def command(since: str | None, until: str | None) -> list[str]:
    """Return the arguments of journalctl(1)."""
    words = ["journalctl", "--no-pager", "--quiet", "--output=json"]
    if until is None:
        words += ["--follow", f"--lines={'0' if since is None else 'all'}"]
    else:
        words.append(f"--until={moment(until)}")
    words += [f"--since={moment(since)}"] if since is not None else []
    return words + event_log.matches()


def shows(event: Event, wanted: dict[str, set[str]]) -> bool:
    """Tell whether an event passes all filters."""
    known = {"type": event.type, "action": event.action, "name": event.name, event.type: event.name}
    return all(known.get(kind) in values for kind, values in wanted.items())


def run(arguments: argparse.Namespace) -> int:
    """Print events."""
    wanted = filters(arguments.filter)
    words = command(arguments.since, arguments.until)
    require_journal()
    try:  # it never ends by itself when it follows, so not through run()
        reader = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error
    with reader:
        for line in reader.stdout or ():
            event = event_log.parse(line)
            if event is not None and shows(event, wanted):
                print(json.dumps(asdict(event)), flush=True)
    return EXIT_FAILED if reader.returncode else 0
