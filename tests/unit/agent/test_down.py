"""What a change leaves down, by what systemd says of it: what was stopped, and what is started by hand only."""

from __future__ import annotations

import pytest

from hostctl.agent.down import Down, is_down
from hostctl.agent.machine import UnitState
from hostctl.config.load import parse_host
from hostctl.config.workload import Workload


def workload(more: str) -> Workload:
    text = f"version: 1\nhostname: a\nworkloads:\n  w: {{image: 'r.example/w:1'{more}}}\n"
    return next(iter(parse_host(text, "host.yaml").workloads.values()))


def state(active: str, result: str = "success", *, queued: bool = False) -> UnitState:
    return UnitState(
        name="w", active=active, sub="", result=result, main_pid=0, restarts=0, active_for=0.0, queued=queued
    )


INACTIVE, ACTIVE, FAILED = state("inactive"), state("active"), state("failed", "exit-code")
AUTO_RESTART, QUEUED = state("activating", "exit-code"), state("inactive", queued=True)
ONCE, JOB, NIGHTLY = ", restart: on-failure", ", type: job", ", type: job, schedule: daily"
DOOR, MANUAL = ", init: false, sockets: [80]", ", autostart: false"


@pytest.mark.parametrize(
    ("more", "service", "starter", "down"),
    [
        ("", INACTIVE, None, True),
        ("", ACTIVE, None, False),
        ("", AUTO_RESTART, None, False),
        ("", QUEUED, None, False),  # it waits for what it is started after
        ("", None, None, False),
        ("", FAILED, None, True),  # as it was stopped: systemd would try it again
        (ONCE, FAILED, None, False),
        (ONCE, INACTIVE, None, True),
        (JOB, INACTIVE, None, True),
        (JOB, ACTIVE, None, False),  # completed
        (JOB, FAILED, None, False),
        (NIGHTLY, INACTIVE, ACTIVE, False),  # between two runs
        (NIGHTLY, INACTIVE, INACTIVE, True),
        (NIGHTLY, FAILED, INACTIVE, True),
        (NIGHTLY, AUTO_RESTART, INACTIVE, False),
        (NIGHTLY, INACTIVE, None, False),
        (DOOR, INACTIVE, ACTIVE, False),  # nobody has called yet
        (DOOR, INACTIVE, INACTIVE, True),
        (DOOR, INACTIVE, FAILED, False),
        (MANUAL, INACTIVE, None, True),
        (MANUAL, FAILED, None, True),
        (MANUAL, None, None, True),
        (MANUAL, ACTIVE, None, False),
        (MANUAL, QUEUED, None, False),
        (MANUAL + NIGHTLY, INACTIVE, ACTIVE, False),
    ],
)
def test_what_is_down_because_somebody_wants_it(
    more: str, service: UnitState | None, starter: UnitState | None, down: bool
) -> None:
    assert is_down(workload(more), service, starter) is down


def test_what_is_left_down_is_a_workload_or_a_replica() -> None:
    down = Down(workloads=frozenset({"db"}), replicas=frozenset({"site.2"}))
    assert down.without(("db", "site", "site.2", "site.3", "db.a")) == ("site", "site.3")
