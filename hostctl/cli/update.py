"""``hostctl update``: take the newest release of the channel into the other slot."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime

from hostctl.errors import UsageError
from hostctl.layout import HostLayout
from hostctl.progress import Progress
from hostctl.repository.client import RepositoryClient
from hostctl.run import run as run_program
from hostctl.update import hold, updater
from hostctl.update.machine import this_host, this_source

EXAMPLES = """examples:
  hostctl update --check
  hostctl update --reboot
  hostctl update --json | jq -r .staged
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--check", action="store_true", help="only tell whether there is a newer release")
    parser.add_argument("--reboot", action="store_true", help="reboot when a new release is staged")
    parser.add_argument("--despite-hold", action="store_true", help="also when updates are on hold (`hostctl hold`)")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


class _Stages:
    """Turns the updater's reports into a line a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._started = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that ``stage`` has done so many bytes of ``total``."""
        if stage != self._stage:
            self.finish()
            self._stage, self._started = stage, time.monotonic()
        self._progress.update(f"· {stage} {100 * done // total} %" if total else f"· {stage} …")

    def finish(self) -> None:
        """Write the line of the last stage."""
        if self._stage:
            self._progress.done(self._stage, time.monotonic() - self._started)
        self._stage = ""


def run(arguments: argparse.Namespace) -> int:
    """Update, or check.

    Raises:
        UsageError: --check and --reboot exclude each other.
        HeldError: updates are on hold.
    """
    if arguments.check and arguments.reboot:
        raise UsageError("--check and --reboot exclude each other")
    layout = HostLayout()
    host = this_host(layout)
    source = this_source(layout, host)
    if arguments.check:
        with updater.locked(host):
            release = updater.check(host, RepositoryClient(source))
        available = release.version if release else None
        _print(
            {"running": host.version, "available": available},
            f"release {available} is available" if available else f"release {host.version} is the newest",
            as_json=arguments.json,
        )
        return 0
    if not arguments.despite_hold:
        hold.require_free(layout.state, datetime.now(UTC))
    stages = _Stages(Progress(quiet=arguments.json))
    outcome = updater.update(host, source, stages)
    stages.finish()
    text = f"release {outcome.staged} is staged, the next boot tries it" if outcome.staged else "there is nothing newer"
    _print(asdict(outcome), text, as_json=arguments.json)
    if outcome.staged and arguments.reboot:
        run_program(["systemctl", "reboot"])
    return 0


def _print(document: dict[str, str | bool | None], text: str, *, as_json: bool) -> None:
    print(json.dumps(document) if as_json else text, flush=True)
