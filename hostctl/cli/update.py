"""``hostctl update``: take the newest release of the channel into the other slot."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

from hostctl.layout import HostLayout
from hostctl.progress import Progress
from hostctl.update import hold, updater
from hostctl.update.machine import this_host, this_source
from hostctl.update.stages import AFTER, BEFORE
from hostctl.update.steps import Event, Progressed, Reached, Warned
from hostctl.update.stopping import stoppable
from hostctl.update.updater import Outcome, Until

EXAMPLES = """examples:
  hostctl update --check
  hostctl update --download           # fill the other slot, but leave the next boot as it is
  hostctl update --reboot
  hostctl update --json | jq -r 'select(.event == "outcome").staged'

An update that was cut off goes on from what is on the disk when it is run again.
exit codes: 0 done, or nothing to do; 1 failed; 69 the repository cannot be reached; 75 on hold, another update is at
work, or this one was stopped. `--json` prints one object a line: stage, progress, warning and, at last, outcome.
"""
PROGRESS_SECONDS = 0.5
MIB = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--check", action="store_true", help="only tell whether there is a newer release")
    how_far.add_argument("--download", action="store_true", help="fill and prove the other slot, stage nothing")
    how_far.add_argument("--stage", action="store_true", help="make it the next boot's first choice (the default)")
    how_far.add_argument("--reboot", action="store_true", help="stage it, and reboot if a new release is staged")
    how_far.add_argument("--unattended", action="store_true", help="what hostctl-update.service runs: go by the policy")
    how_far.add_argument(
        "--give-back-turn",
        action="store_true",
        help="what hostctl-steady.service runs: tell the lock server",
    )
    parser.add_argument("--despite-hold", action="store_true", help="also when updates are on hold (`hostctl hold`)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


class Lines:
    """Prints events as JSON, one a line."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Print an event; of progress only what a reader can follow."""
        match event:
            case Reached():
                _line("stage", stage=event.stage.value, edge=event.edge)
            case Progressed():
                if event.bytes < event.total and time.monotonic() - self._shown < PROGRESS_SECONDS:
                    return
                self._shown = time.monotonic()
                left = None if event.left is None else round(event.left, 1)
                counts = {"bytes": event.bytes, "total": event.total, "rate": round(event.rate), "left": left}
                _line("progress", stage=event.stage.value, **counts)
            case Warned():
                _line("warning", text=event.text)

    def outcome(self, outcome: Outcome) -> None:
        """Print the last line."""
        _line("outcome", **asdict(outcome))


class Terminal:
    """Shows a line a stage, and how far the present one is."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._began = 0.0
        self._bytes = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Reached(edge=edge) if edge == BEFORE:
                self._began, self._bytes = time.monotonic(), 0
                self._progress.update(f"· {event.stage} …")
            case Reached(edge=edge) if edge == AFTER:
                note = f"{self._bytes / MIB:.1f} MiB" if self._bytes else ""
                self._progress.done(event.stage.value, time.monotonic() - self._began, note)
            case Progressed():
                self._bytes = event.bytes
                self._progress.update(f"· {event.stage} {amount(event)}")
            case Warned():
                self._progress.line(f"warning: {event.text}")

    def outcome(self, outcome: Outcome) -> None:
        """Print what came of it."""
        print(sentence(outcome), flush=True)


def amount(event: Progressed) -> str:
    """Return how far a stage is, for people."""
    share = 100 * event.bytes // event.total if event.total else 100
    left = "" if event.left is None else f", {event.left:.0f} s left"
    return f"{share} % of {event.total / MIB:.1f} MiB, {event.rate / MIB:.1f} MiB/s{left}"


def sentence(outcome: Outcome) -> str:
    """Return what came of an update, for people, and which releases were passed over."""
    if outcome.staged:
        said = f"release {outcome.staged} is staged, the next boot tries it"
    elif outcome.written:
        said = f"release {outcome.available} is in the other slot; `hostctl update` stages it"
    elif outcome.available:
        said = f"release {outcome.available} is available"
    else:
        said = f"release {outcome.running} is the newest for this host"
    return "\n".join([said, *(f"release {one.version} is not taken: {one.why}" for one in outcome.passed)])


def _line(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Update as far as asked."""
    if arguments.unattended or arguments.give_back_turn:
        return _by_policy(arguments)
    layout = HostLayout()
    host = this_host(layout)
    source = this_source(layout, host)
    until: Until = "check" if arguments.check else "download" if arguments.download else "stage"
    if not arguments.check and not arguments.despite_hold:
        hold.require_free(layout.state, datetime.now(UTC))
    show = Lines() if arguments.json else Terminal()
    with stoppable():
        outcome = updater.update(host, source, until, show)
    if outcome.staged and arguments.reboot:
        updater.reboot(host, show)
    show.outcome(outcome)
    return 0


def _by_policy(arguments: argparse.Namespace) -> int:
    from hostctl.cli import unattended  # noqa: PLC0415 - not needed by hand, start-up counts

    if arguments.give_back_turn:
        return unattended.give_back_turn(as_json=arguments.json)
    return unattended.run(Lines() if arguments.json else Terminal(), as_json=arguments.json)
