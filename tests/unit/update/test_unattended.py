"""Whole unattended runs: what they do to the host and the lock server, and what they leave to the next one."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hostctl_lab.lock_server import LockServer

from hostctl.config.host import RebootLock, UpdatePolicy
from hostctl.config.values import Duration, HttpUrl, LockGroup, Window
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.run import CommandError
from hostctl.update import fleet_lock, freshness, hold, outlook, unattended
from hostctl.update.freshness import Moment
from hostctl.update.hold import Hold
from hostctl.update.outlook import Outlook
from hostctl.update.surroundings import staged_version
from hostctl.update.unattended import Attended, Notes, UnattendedBusyError

SATURDAY = datetime(2026, 11, 28, 3, 30, tzinfo=UTC)
THURSDAY = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
WINDOW = UpdatePolicy(
    repository=HttpUrl("https://updates.example/"),
    strategy="window",
    window=Window("Sat 03:00-05:00"),
    jitter=Duration(1),
    notice=Duration(120),
    delay=Duration(600),
)
PARTY = Hold(by="ops", reason="party", time="2026-11-26T11:00:00+00:00")


@dataclass(kw_only=True)
class FakeHost:
    """A host with a clock of its own, on which only what is started by a run happens."""

    time: datetime = SATURDAY
    boot: str = "boot-1"
    uptime: float = 1000.0
    next_release: str = "2"
    release: str = ""
    held_back: tuple[str, ...] = ()
    people: int = 0
    broken: HostctlError | None = None
    stubborn: bool = False
    log: list[str] = field(default_factory=list)
    woken_in: float = 0.0

    def moment(self) -> Moment:
        return Moment(time=self.time, boot=self.boot, uptime=self.uptime)

    def staged(self) -> str:
        return self.release

    def inhibitors(self) -> tuple[str, ...]:
        return self.held_back

    def terminals(self) -> int:
        return self.people

    def look(self, heard: Callable[[], None]) -> None:
        self.log.append("look")
        if self.broken is not None:
            raise self.broken
        heard()
        self.release = self.next_release

    def tell(self, text: str) -> None:
        self.log.append(f"tell {text}")

    def wake(self, seconds: float) -> None:
        self.woken_in = seconds

    def restart(self, *, despite_inhibitors: bool) -> None:
        if self.stubborn:
            raise CommandError("systemctl failed")
        self.log.append("restart by force" if despite_inhibitors else "restart")

    def give_back_turn(self) -> None:
        self.log.append("give back")

    def passes(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.uptime += seconds

    def asleep(self) -> list[str]:
        """Return what was done since the last call."""
        done, self.log = self.log, []
        return done


@pytest.fixture
def attended(tmp_path: Path) -> Attended:
    state, runtime = tmp_path / "state", tmp_path / "run"
    return Attended(policy=WINDOW, zone=ZoneInfo("UTC"), machine_id="0" * 32, state=state, runtime=runtime)


@pytest.fixture
def server() -> Iterator[LockServer]:
    with LockServer() as server:
        yield server


def with_lock(attended: Attended, server: LockServer, group: str = "web") -> Attended:
    lock = RebootLock(url=HttpUrl(server.url), group=LockGroup(group))
    return replace(attended, policy=replace(WINDOW, strategy="lock", window=(), lock=lock, jitter=Duration(0)))


def test_a_release_is_taken_at_any_time_and_restarted_into_in_its_window(attended: Attended) -> None:
    host = FakeHost(time=THURSDAY)
    notes = unattended.run(attended, host)
    assert host.asleep() == ["look"]
    assert notes.says.startswith("release 2 waits for its window, Sat 2026-11-28 03:00")
    assert host.woken_in == 3600
    host.time = SATURDAY
    host.uptime += 60
    unattended.run(attended, host)
    assert host.asleep() == ["tell This host restarts now, into release 2.", "restart"]
    assert unattended.read_notes(attended.runtime).says == "restarts into release 2"


def test_nothing_newer_is_looked_for_again_in_an_hour(attended: Attended) -> None:
    host = FakeHost(next_release="")
    unattended.run(attended, host)
    host.passes(600)
    unattended.run(attended, host)
    assert (host.asleep(), host.woken_in) == (["look"], 3000)
    host.passes(3000)
    unattended.run(attended, host)
    assert host.asleep() == ["look"]


def test_people_are_warned_and_a_hold_calls_it_off(attended: Attended) -> None:
    host = FakeHost(release="2", people=1)
    unattended.run(attended, host)
    warning = "tell This host restarts in {}, into release 2. `hostctl hold` keeps it up."
    assert (host.asleep(), host.woken_in) == ([warning.format("2m"), "look"][:1], 60)
    host.passes(60)
    unattended.run(attended, host)
    assert (host.asleep(), host.woken_in) == ([warning.format("1m")], 60)
    hold.place(attended.state, PARTY)
    notes = unattended.run(attended, host)
    assert host.asleep() == ["tell The restart is called off: updates are on hold by ops: party.", "give back"]
    assert notes.says == "updates are on hold by ops: party"
    host.passes(3600)
    unattended.run(attended, host)
    assert host.asleep() == []
    hold.release(attended.state)
    unattended.run(attended, host)
    host.passes(120)
    unattended.run(attended, host)
    assert host.asleep() == [warning.format("2m"), "tell This host restarts now, into release 2.", "restart"]


def test_an_inhibitor_holds_it_back_for_a_bounded_time(attended: Attended) -> None:
    host = FakeHost(release="2", held_back=("workload db",))
    for _ in range(20):
        notes = unattended.run(attended, host)
        assert notes.says.startswith("held back by workload db, for ")
        assert host.woken_in == 30
        host.passes(30)
    assert "restart" not in " ".join(host.asleep())
    unattended.run(attended, host)
    assert host.asleep() == ["tell This host restarts now, into release 2.", "restart by force"]


def test_a_turn_is_asked_for_until_it_is_granted(attended: Attended, server: LockServer) -> None:
    host, attended = FakeHost(release="2"), with_lock(attended, server)
    server.holders["web"] = {"another"}
    pauses = []
    for _ in range(4):
        unattended.run(attended, host)
        pauses.append(host.woken_in)
        host.passes(host.woken_in)
    assert pauses == sorted(pauses)
    assert len(set(pauses)) == 4
    assert "409" in unattended.read_notes(attended.runtime).says
    assert "restart" not in host.asleep()
    server.holders["web"].clear()
    unattended.run(attended, host)
    assert host.asleep()[-1:] == ["restart"]
    assert len(server.holders["web"]) == 1
    host.boot = "boot-2"
    assert fleet_lock.give_back(attended.state, host.boot)
    assert server.holders["web"] == set()


def test_a_hold_gives_the_turn_back(attended: Attended, server: LockServer) -> None:
    host, attended = FakeHost(release="2", people=1), with_lock(attended, server)
    unattended.run(attended, host)
    assert len(server.holders["web"]) == 1
    hold.place(attended.state, PARTY)
    host.asleep()
    unattended.run(attended, host)
    assert host.asleep()[-1] == "give back"
    assert fleet_lock.give_back(attended.state, host.boot)
    assert server.holders["web"] == set()
    unattended.run(attended, host)
    assert host.asleep() == []


def test_a_lock_server_that_is_down_does_not_keep_from_looking_for_releases(
    attended: Attended, server: LockServer
) -> None:
    host, attended = FakeHost(release="2"), with_lock(attended, server)
    down = RebootLock(url=HttpUrl("http://127.0.0.1:9/"))
    attended = replace(attended, policy=replace(attended.policy, lock=down))
    unattended.run(attended, host)
    assert "does not answer" in unattended.read_notes(attended.runtime).says
    assert host.asleep() == ["look"]
    host.passes(4000)
    unattended.run(attended, host)
    assert host.asleep() == ["look"]


def test_a_repository_that_fails_is_said_and_asked_again_later(
    attended: Attended, caplog: pytest.LogCaptureFixture
) -> None:
    host = FakeHost(broken=HostctlError("the repository does not answer"), next_release="")
    notes = unattended.run(attended, host)
    assert notes.problem == "the repository does not answer"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    host.passes(15 * 86400)
    unattended.run(attended, host)
    assert "no word from the repository" in caplog.text
    host.broken = None
    host.passes(3600)
    assert unattended.run(attended, host).problem == ""
    record = freshness.read(attended.state)
    assert record is not None
    assert record.age(host.moment()) == 0


def test_a_failing_look_keeps_no_staged_release_from_its_window(attended: Attended) -> None:
    host = FakeHost(release="2", broken=HostctlError("the repository does not answer"), time=THURSDAY)
    unattended.run(attended, host)
    host.time = SATURDAY
    unattended.run(attended, host)
    assert host.asleep()[-1] == "restart"


def test_a_restart_that_systemd_refuses_is_tried_again(attended: Attended) -> None:
    host = FakeHost(release="2", stubborn=True)
    notes = unattended.run(attended, host)
    assert (notes.says, host.woken_in) == ("could not restart: systemctl failed", 60)
    host.stubborn = False
    unattended.run(attended, host)
    assert host.asleep()[-1] == "restart"


def test_a_policy_that_became_manual_gives_the_turn_back(attended: Attended, server: LockServer) -> None:
    host, attended = FakeHost(release="2", people=1), with_lock(attended, server)
    unattended.run(attended, host)
    manual = replace(attended, policy=UpdatePolicy(repository=WINDOW.repository))
    unattended.run(manual, host)
    assert host.asleep()[-2:] == ["tell The restart is called off: updates are taken by hand.", "give back"]
    assert fleet_lock.give_back(attended.state, host.boot)


def test_only_one_run_at_a_time(attended: Attended) -> None:
    attended.runtime.mkdir()
    with (attended.runtime / "unattended.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UnattendedBusyError):
            unattended.run(attended, FakeHost())
    assert not (attended.runtime / outlook.NOTES).exists()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"memory": {"staged": "2"}}', b"\xff", b"[" * 9999], ids=range(6)
)
def test_damaged_notes_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / outlook.NOTES).write_bytes(data)
    assert unattended.read_notes(tmp_path) == Notes()


@pytest.mark.parametrize(
    ("filenames", "version"),
    [
        (["edge_1.efi"], ""),
        (["edge_1.efi", "edge_2+3.efi"], "2"),
        (["edge_1.efi", "edge_2.efi"], "2"),
        (["edge_1.efi", "edge_2+0-3.efi"], ""),  # given up
        (["edge_1.efi", "edge_0.9.efi"], ""),  # the release before
        (["edge_1+0.efi", "edge_0.9.efi"], ""),  # a rollback waits for whoever asked for it
        (["edge_1.efi", "other_9.efi", "readme.txt"], ""),
        ([], ""),
    ],
)
def test_what_is_staged_is_what_the_boot_loader_takes_next(filenames: list[str], version: str) -> None:
    assert staged_version(filenames, "edge", "1") == version


def test_what_a_host_waits_for_can_be_asked(tmp_path: Path) -> None:
    layout = HostLayout(tmp_path)
    attended = Attended(
        policy=WINDOW, zone=ZoneInfo("UTC"), machine_id="0" * 32, state=layout.state, runtime=layout.runtime
    )
    host = FakeHost(time=THURSDAY)
    assert outlook.outlook(layout, host.moment()) == Outlook()
    unattended.run(attended, host)
    assert outlook.outlook(layout, host.moment()).waits.startswith("release 2 waits for its window")
    host.broken = HostctlError("the repository does not answer")
    host.passes(20 * 86400)
    unattended.run(attended, host)
    hold.place(layout.state, PARTY)
    said = outlook.outlook(layout, host.moment())
    assert said.problem == "the repository does not answer"
    assert said.silent_since == THURSDAY.isoformat()
    assert said.lines()[0] == ("updates", "on hold by ops: party")
