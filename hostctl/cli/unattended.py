"""What systemd runs of ``hostctl update``: the unattended run, and giving back the turn to restart."""

from __future__ import annotations

import json
from zoneinfo import ZoneInfo

from hostctl.config.host import HostDeclaration, UpdatePolicy
from hostctl.config.load import load_host
from hostctl.config.values import HttpUrl
from hostctl.layout import HostLayout
from hostctl.update import fleet_lock, unattended, updater
from hostctl.update.host import UpdateHost
from hostctl.update.machine import this_host, this_source
from hostctl.update.outlook import this_moment
from hostctl.update.steps import Report
from hostctl.update.stopping import stoppable
from hostctl.update.surroundings import SystemdSurroundings
from hostctl.update.unattended import Attended

NOWHERE = UpdatePolicy(repository=HttpUrl("http://localhost/"))
"""Of a host that declares no updates: manual, so nothing is looked for, but what was begun is called off."""


def attended(layout: HostLayout, host: UpdateHost) -> Attended:
    """Return the host with the policy that its declaration in force has."""
    path = layout.current / "host.yaml"
    declaration: HostDeclaration | None = load_host(path) if path.exists() else None
    policy = (declaration.update if declaration else None) or NOWHERE
    zone = policy.timezone or (declaration.timezone if declaration else "UTC")
    return Attended(
        policy=policy,
        zone=ZoneInfo(str(zone)),
        machine_id=host.machine_id,
        state=layout.state,
        runtime=layout.runtime,
    )


def run(show: Report, *, as_json: bool) -> int:
    """Do one unattended run and print what is waited for.

    Args:
        show: is told how an update goes.
        as_json: print a JSON object.
    """
    layout = HostLayout()
    host = this_host(layout)

    def take(report: Report) -> None:
        updater.update(host, this_source(layout, host), "stage", report, by_hand=False)

    with stoppable():
        notes = unattended.run(attended(layout, host), SystemdSurroundings(layout, host, take, show))
    document = {"event": "waits", "waits": notes.says, "problem": notes.problem}
    print(json.dumps(document) if as_json else notes.says, flush=True)
    return 0


def give_back_turn(*, as_json: bool) -> int:
    """Give the turn to restart back to the lock server, if there is one to give back, and say so.

    Args:
        as_json: print a JSON document.
    """
    layout = HostLayout()
    done = fleet_lock.give_back(layout.state, this_moment(layout).boot)
    said = "the turn to restart is given back" if done else "there is no turn to give back"
    print(json.dumps({"event": "turn", "given_back": done}) if as_json else said, flush=True)
    return 0
