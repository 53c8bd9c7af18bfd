"""What an unattended host does next, for every strategy; and that no run of events restarts it when it must not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostctl.config.host import RebootLock, UpdatePolicy
from hostctl.config.values import Duration, HttpUrl, Window
from hostctl.update import policy as rules
from hostctl.update.policy import Action, AskLock, CallOff, Check, Memory, Restart, Situation, Wait, Warn, decide

URL = HttpUrl("https://updates.example/")
LOCK = RebootLock(url=HttpUrl("https://lock.example/"))
SATURDAY = Window("Sat 03:00-05:00")
BERLIN = ZoneInfo("Europe/Berlin")
IN = datetime(2026, 11, 28, 3, 30, tzinfo=BERLIN).astimezone(UTC)
OUT = datetime(2026, 11, 26, 12, 0, tzinfo=BERLIN).astimezone(UTC)

MANUAL = UpdatePolicy(repository=URL)
IMMEDIATE = UpdatePolicy(repository=URL, strategy="immediate", jitter=Duration(100), delay=Duration(600))
WINDOW = UpdatePolicy(repository=URL, strategy="window", window=SATURDAY, jitter=Duration(600), delay=Duration(600))
TURNS = UpdatePolicy(repository=URL, strategy="lock", lock=LOCK, jitter=Duration(100))
BOTH = replace(TURNS, window=SATURDAY)

HERE = Situation(now=IN, uptime=1000.0, share=0.25, staged="2")
FRESH = Memory(checked=900.0, staged="2", staged_since=800.0)
DUE = replace(FRESH, due_since=900.0)
WARNED = replace(DUE, warned_since=990.0, warnings=1)


def step(policy: UpdatePolicy, at: Situation, memory: Memory) -> tuple[Action, Memory]:
    return decide(policy, BERLIN, at, memory)


@pytest.mark.parametrize(
    ("policy", "at", "memory", "action"),
    [
        # Looking for releases: at once after a boot, then every hour, in a window or out of it.
        (IMMEDIATE, replace(HERE, staged=""), Memory(), Check()),
        (WINDOW, replace(HERE, staged="", now=OUT), Memory(), Check()),
        (IMMEDIATE, replace(HERE, staged="", uptime=4499.0), Memory(checked=900.0), Wait(seconds=1, why="staged")),
        (IMMEDIATE, replace(HERE, staged="", uptime=4500.0), Memory(checked=900.0), Check()),
        (WINDOW, replace(HERE, now=OUT, uptime=4500.0), replace(FRESH, staged_since=0), Check()),
        (MANUAL, HERE, FRESH, Wait(seconds=3600, why="by hand")),
        (IMMEDIATE, replace(HERE, held="on hold"), replace(FRESH, checked=None), Wait(seconds=3600, why="on hold")),
        # immediate: at this host's place in the spread.
        (IMMEDIATE, replace(HERE, uptime=820.0), FRESH, Wait(seconds=5, why="spread")),
        (IMMEDIATE, replace(HERE, uptime=825.0), FRESH, Restart()),
        (IMMEDIATE, HERE, Memory(checked=900.0), Wait(seconds=25, why="spread")),
        # window: now, later, never.
        (WINDOW, HERE, FRESH, Restart()),
        (WINDOW, replace(HERE, now=OUT), FRESH, Wait(seconds=3500, why="window, Sat 2026-11-28 03:02 CET")),
        (WINDOW, replace(HERE, now=IN - timedelta(minutes=29)), FRESH, Wait(seconds=90, why="its window")),
        (WINDOW, replace(HERE, now=IN + timedelta(minutes=90)), FRESH, Wait(seconds=3500, why="Sat 2026-12-05")),
        # Inhibitors, for a bounded time.
        (
            WINDOW,
            replace(HERE, inhibitors=("db: backup",)),
            FRESH,
            Wait(seconds=30, why="by db: backup, for 10m at most"),
        ),
        (
            WINDOW,
            replace(HERE, inhibitors=("db: backup",), uptime=1490.0),
            DUE,
            Wait(seconds=10, why="for 10s at most"),
        ),
        (WINDOW, replace(HERE, inhibitors=("db: backup",), uptime=1500.0), DUE, Restart(despite=("db: backup",))),
        (WINDOW, replace(HERE, inhibitors=("a", "b", "c", "d")), DUE, Wait(seconds=30, why="a, b, c and 1 more")),
        # lock: asked when nothing else is in the way, and not too often.
        (TURNS, HERE, DUE, AskLock()),
        (TURNS, replace(HERE, inhibitors=("a",)), DUE, Wait(seconds=30, why="held back")),
        (TURNS, HERE, replace(DUE, lock_retry=1100.0, lock_said="busy"), Wait(seconds=100, why="agreed: busy")),
        (TURNS, replace(HERE, uptime=4500.0), replace(DUE, lock_retry=5000.0), Check()),
        (TURNS, replace(HERE, locked=True), DUE, Restart()),
        (TURNS, replace(HERE, terminals=1), DUE, AskLock()),
        (BOTH, replace(HERE, now=OUT), DUE, Wait(seconds=3500, why="window")),
        (BOTH, HERE, DUE, AskLock()),
        # People at terminals: told, told again, then it comes.
        (WINDOW, replace(HERE, terminals=2), DUE, Warn(left=300)),
        (WINDOW, replace(HERE, terminals=2), WARNED, Wait(seconds=230, why="restart comes in 5m")),
        (WINDOW, replace(HERE, terminals=2, uptime=1230.0), WARNED, Warn(left=60)),
        (
            WINDOW,
            replace(HERE, terminals=2, uptime=1231.0),
            replace(WARNED, warnings=2),
            Wait(seconds=59, why="in 59s"),
        ),
        (WINDOW, replace(HERE, terminals=2, uptime=1290.0), replace(WARNED, warnings=2), Restart()),
        (WINDOW, HERE, WARNED, Restart()),
        (replace(WINDOW, notice=Duration(30)), replace(HERE, terminals=1), WARNED, Wait(seconds=20, why="in 20s")),
        # Called off, whatever the reason.
        (WINDOW, replace(HERE, held="on hold", terminals=1), WARNED, CallOff(why="on hold")),
        (WINDOW, replace(HERE, now=OUT, terminals=1), WARNED, CallOff(why="its window")),
        (WINDOW, replace(HERE, staged="", terminals=1), WARNED, CallOff(why="no newer release")),
        (TURNS, replace(HERE, held="on hold", locked=True), DUE, CallOff(why="on hold")),
        (MANUAL, replace(HERE, locked=True), DUE, CallOff(why="by hand")),
    ],
)
def test_what_comes_next(policy: UpdatePolicy, at: Situation, memory: Memory, action: Action) -> None:
    found, _ = step(policy, at, memory)
    assert type(found) is type(action)
    if isinstance(found, Wait | CallOff) and isinstance(action, Wait | CallOff):
        assert action.why in found.why
    if isinstance(found, Wait) and isinstance(action, Wait):
        assert found.seconds == pytest.approx(action.seconds)
    if isinstance(found, Restart | Warn | Check | AskLock):
        assert found == action


def test_the_delay_counts_from_when_the_restart_was_due_first_even_over_a_closed_window() -> None:
    inhibited = replace(HERE, inhibitors=("a",))
    _, memory = step(WINDOW, inhibited, FRESH)
    assert memory.due_since == 1000.0
    closed, memory = step(WINDOW, replace(inhibited, now=IN + timedelta(hours=3), uptime=1300.0), memory)
    assert isinstance(closed, Wait)
    action, _ = step(WINDOW, replace(inhibited, now=IN + timedelta(days=7), uptime=1600.0), memory)
    assert action == Restart(despite=("a",))


def test_another_release_starts_over_and_is_not_announced_with_the_words_of_the_last() -> None:
    action, memory = step(IMMEDIATE, replace(HERE, staged="3"), WARNED)
    assert isinstance(action, CallOff)
    action, memory = step(IMMEDIATE, replace(HERE, staged="3"), memory)
    assert (action, memory.due_since) == (Wait(seconds=25, why="release 3 waits for its turn in the spread"), None)


def test_a_warning_is_not_given_twice_after_being_called_off_and_due_again() -> None:
    at = replace(HERE, terminals=1)
    _, memory = step(WINDOW, replace(at, held="on hold"), WARNED)
    assert (memory.warned_since, memory.warnings) == (None, 0)
    action, memory = step(WINDOW, replace(at, uptime=2000.0), memory)
    assert (action, memory.warned_since) == (Warn(left=300), 2000.0)


def test_refusals_of_the_lock_server_make_the_pauses_longer_up_to_a_bound() -> None:
    memory, pauses = DUE, []
    for _ in range(12):
        memory = rules.refused(memory, HERE, "busy")
        pauses.append(memory.lock_retry - HERE.uptime)
    assert pauses[:3] == [22.5, 45.0, 90.0]
    assert pauses[-1] == 675.0
    assert memory.lock_refusals == 12


def test_places_are_stable_and_spread() -> None:
    ids = [f"{number:032x}" for number in range(2000)]
    shares = sorted(map(rules.share, ids))
    assert rules.share(ids[0]) == rules.share(ids[0])
    assert all(abs(share - place / len(ids)) < 0.05 for place, share in enumerate(shares))
    assert shares[0] >= 0
    assert shares[-1] < 1


moments = st.integers(0, 14 * 24 * 60).map(lambda minutes: OUT + timedelta(minutes=minutes))
situations = st.builds(
    Situation,
    now=moments,
    uptime=st.floats(0, 1e6),
    share=st.floats(0, 1, exclude_max=True),
    held=st.sampled_from(["", "on hold"]),
    staged=st.sampled_from(["", "2", "3"]),
    inhibitors=st.sampled_from([(), ("db: backup",)]),
    terminals=st.integers(0, 2),
    locked=st.booleans(),
)


@given(st.sampled_from([MANUAL, IMMEDIATE, WINDOW, TURNS, BOTH]), st.lists(situations, min_size=1, max_size=12))
def test_no_run_of_events_restarts_a_host_that_must_stay(policy: UpdatePolicy, events: list[Situation]) -> None:
    memory, told = Memory(), False
    for event in sorted(events, key=lambda event: event.uptime):
        at = event
        for _ in range(10):
            before = memory
            action, memory = decide(policy, BERLIN, at, memory)
            told = isinstance(action, Warn) or (told and not isinstance(action, CallOff))
            if isinstance(action, CallOff):
                assert at.locked or before.warned_since is not None
                at = replace(at, locked=False)  # as the caller gives the turn back
            if isinstance(action, Restart):
                assert policy.unattended
                assert at.staged
                assert not at.held
                local = at.now.astimezone(BERLIN)
                assert not policy.windows or (local.weekday() == 5 and 3 <= local.hour < 5)
                assert policy.strategy != "lock" or at.locked
                assert told or not at.terminals
                assert action.despite == at.inhibitors
                return
            if isinstance(action, AskLock):
                memory = rules.refused(memory, at, "busy")
            if isinstance(action, Wait):
                assert 0 < action.seconds <= 3600
                break
        else:
            raise AssertionError("it never came to wait")
