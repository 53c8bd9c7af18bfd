"""The host around an unattended run, as one thin edge: clocks, boot entries, systemd, terminals. It decides nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from hostctl.boot.entries import choose, parse_entries
from hostctl.config.versions import compare
from hostctl.layout import HostLayout
from hostctl.run import run
from hostctl.update import inhibitors, terminals, updater
from hostctl.update.freshness import Moment
from hostctl.update.host import UpdateHost
from hostctl.update.outlook import SERVICE, this_moment
from hostctl.update.stages import AFTER, Stage
from hostctl.update.steps import Event, Reached, Report

STEADY_SERVICE = "hostctl-steady.service"
WAKE = "hostctl-update-wake"
_SECONDS = 60.0  # for one call of systemctl


def staged_version(filenames: Iterable[str], name: str, running: str) -> str:
    """Return the version that the boot loader would start next, if it is newer than the running one, else nothing.

    Args:
        filenames: what is in the folder of the boot entries.
        name: of the product.
        running: version of the running release.
    """
    entry = choose(parse_entries(filenames, name))
    newer = entry is not None and not entry.bad and compare(entry.version, running) > 0
    return entry.version if entry is not None and newer else ""


class SystemdSurroundings:
    """The machine that this process runs on."""

    def __init__(self, layout: HostLayout, host: UpdateHost, take: Callable[[Report], None], show: Report) -> None:
        """Take what is needed to update.

        Args:
            layout: where things lie.
            host: the machine as the updater sees it.
            take: looks for a release, loads and stages it, and tells what it is given how it goes.
            show: is told as well.
        """
        self._layout = layout
        self._host = host
        self._take = take
        self._show = show

    def moment(self) -> Moment:
        """Return the time, the boot and its uptime."""
        return this_moment(self._layout)

    def staged(self) -> str:
        """Return the version that the next boot starts, if it is newer than the running one, else nothing."""
        names = [path.name for path in self._host.entries.iterdir()]
        return staged_version(names, self._host.name, self._host.version)

    def inhibitors(self) -> tuple[str, ...]:
        """Return who holds a restart back."""
        return (*inhibitors.of_logind(), *inhibitors.of_workloads(self._layout.runtime))

    def terminals(self) -> int:
        """Return how many terminals have people."""
        return len(terminals.in_use())

    def look(self, heard: Callable[[], None]) -> None:
        """Look for a release, load and stage it; ``heard`` is called once the repository's word is verified."""

        def report(event: Event) -> None:
            if event == Reached(stage=Stage.METADATA, edge=AFTER):
                heard()
            self._show(event)

        self._take(report)

    def tell(self, text: str) -> None:
        """Tell people at terminals."""
        terminals.tell(text)

    def wake(self, seconds: float) -> None:
        """Have another run started in so many seconds, and not by what was asked before.

        By a transient timer, which counts CLOCK_MONOTONIC; setting the clock starts a run by itself. Each has a name
        of its own, because systemd forgets one that was stopped only a moment later.
        """
        run(["systemctl", "stop", f"{WAKE}-*.timer"], timeout=_SECONDS)
        unit = f"--unit={WAKE}-{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}"
        when = [f"--on-active={math.ceil(seconds)}s", "--timer-property=AccuracySec=1s"]
        start = ["systemctl", "--no-block", "start", SERVICE]
        run(["systemd-run", "--quiet", "--collect", unit, *when, "--", *start], timeout=_SECONDS)

    def restart(self, *, despite_inhibitors: bool) -> None:
        """Restart the host."""
        updater.reboot(self._host, self._show, despite_inhibitors=despite_inhibitors)

    def give_back_turn(self) -> None:
        """Have the turn given back, now or when the lock server can be reached."""
        run(["systemctl", "--no-block", "start", STEADY_SERVICE], timeout=_SECONDS)
