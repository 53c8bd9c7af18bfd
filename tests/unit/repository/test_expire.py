"""What is dropped and removed, and what never is; metadata that are renewed in time."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hostctl.errors import UsageError
from hostctl.repository.expire import expire, kept, refresh
from hostctl.repository.offers import promote, withdraw
from hostctl.repository.publish import publish
from hostctl.repository.release import Offer
from hostctl.repository.rollout import Rollout
from hostctl.repository.store import Store
from hostctl.repository.terms import Terms
from hostctl.repository.verify import verify

from .conftest import NOW, Clients, Workshop

DAY = timedelta(days=1)


def offer(version: str, minimum: str | None = None, percent: float | None = None) -> Offer:
    rollout = None if percent is None else Rollout(start=NOW - DAY, hours=1, percent=percent)
    return Offer(name="edge", architecture="x86-64", version=version, minimum=minimum, rollout=rollout)


@pytest.mark.parametrize(
    ("offers", "count", "staying"),
    [
        ([offer("1"), offer("2"), offer("10")], 2, {"2", "10"}),
        ([offer("1"), offer("2"), offer("3")], 9, {"1", "2", "3"}),
        # Hosts older than the minimum go through the oldest release that it lets in.
        ([offer("1"), offer("2"), offer("3"), offer("4", minimum="2")], 1, {"2", "4"}),
        ([offer("1"), offer("2", minimum="1"), offer("3"), offer("4", minimum="2")], 1, {"1", "2", "4"}),
        ([offer("1"), offer("4", minimum="2")], 1, {"4"}),
        # While few hosts may take the newest, the others need one that all may.
        ([offer("1"), offer("2"), offer("3", percent=10)], 1, {"2", "3"}),
        ([offer("1"), offer("2"), offer("3", percent=100)], 1, {"3"}),
    ],
)
def test_what_stays(offers: list[Offer], count: int, staying: set[str]) -> None:
    assert kept(offers, count, NOW) == staying


def age(repository: Path, by: timedelta) -> None:
    """Let all files of a repository be older."""
    for path in repository.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - by.total_seconds()
            os.utime(path, (then, then))


def payload_files(workshop: Workshop) -> set[str]:
    return {path for path in workshop.files() if path.startswith("payloads/")}


def test_old_releases_go_at_once_their_files_after_the_grace(workshop: Workshop, clients: Clients) -> None:
    for version in ("1", "2", "3"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    begun = clients("begun")
    before = workshop.files()
    age(workshop.repository, 3 * DAY)
    first = expire(workshop.repository, workshop.keyring, keep=2)
    assert [(one.channel, one.version) for one in first.dropped] == [("stable", "1")]
    # A host that began before comes to its end: all that the former state leads to is still there.
    assert {path for path in before if path.startswith("payloads/") or "/1/" in path} <= set(workshop.files())
    info = begun.get_targetinfo("edge/x86-64/stable/1/release.json")
    assert info is not None
    assert begun.download_target(info)
    assert clients("new").get_targetinfo("edge/x86-64/stable/1/release.json") is None
    age(workshop.repository, 2 * DAY)
    second = expire(workshop.repository, workshop.keyring, keep=2)
    assert second.dropped == ()
    assert second.files
    assert second.bytes == sum(len(before[path]) for path in second.files if path in before)
    assert len(payload_files(workshop)) == 6
    assert not list((workshop.repository / "targets/edge/x86-64/stable").glob("1"))
    assert verify(workshop.repository).errors == []
    assert clients("last").get_targetinfo("edge/x86-64/stable/3/release.json") is not None


def test_what_another_channel_offers_stays(workshop: Workshop) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    promote(workshop.repository, workshop.keyring, "1", "beta")
    withdraw(workshop.repository, workshop.keyring, "1", "stable")
    age(workshop.repository, 9 * DAY)
    expire(workshop.repository, workshop.keyring, grace=timedelta(0))
    assert len(payload_files(workshop)) == 3
    assert verify(workshop.repository).errors == []
    withdraw(workshop.repository, workshop.keyring, "1", "beta")
    assert len(payload_files(workshop)) == 3
    age(workshop.repository, 9 * DAY)
    expire(workshop.repository, workshop.keyring)
    assert payload_files(workshop) == set()
    assert verify(workshop.repository).errors == []


def test_what_a_cut_off_run_left_goes_when_it_is_old(workshop: Workshop) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    left = [
        workshop.repository / "payloads/00/0000",
        workshop.repository / "metadata/.9.stable.json.abcd.tmp",
        workshop.repository / "targets/edge/x86-64/stable/9/aa.release.json",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert expire(workshop.repository, workshop.keyring).files == ()
    age(workshop.repository, 2 * DAY)
    done = expire(workshop.repository, workshop.keyring)
    assert set(done.files) == {path.relative_to(workshop.repository).as_posix() for path in left}
    assert not (workshop.repository / "payloads/00").exists()


def test_a_dry_run_changes_nothing(workshop: Workshop) -> None:
    for version in ("1", "2"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    before = workshop.files()
    done = expire(workshop.repository, workshop.keyring, keep=1, dry_run=True)
    assert [one.version for one in done.dropped] == ["1"]
    assert workshop.files() == before


def test_a_publisher_without_keys_of_a_channel_cannot_drop_from_it(workshop: Workshop) -> None:
    for version in ("1", "2"):
        publish(workshop.build(version), workshop.repository, workshop.keyring)
    before = workshop.files()
    (workshop.keys / "tuf/channel-stable.pem").unlink()
    with pytest.raises(Exception, match="keys of stable"):
        expire(workshop.repository, workshop.keyring, keep=1)
    assert workshop.files() == before


@pytest.mark.parametrize(("keep", "grace"), [(0, DAY), (-1, DAY), (1, -DAY)])
def test_nothing_is_never_asked_for(workshop: Workshop, keep: int, grace: timedelta) -> None:
    with pytest.raises(UsageError):
        expire(workshop.repository, workshop.keyring, keep=keep, grace=grace)


def test_refresh_needs_only_the_online_keys(workshop: Workshop, clients: Clients) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    for name in ("root-1", "root-2", "root-3", "targets", "channel-stable", "channel-beta"):
        (workshop.keys / f"tuf/{name}.pem").unlink()
    later = NOW + timedelta(days=7)
    done = refresh(workshop.repository, workshop.keyring, now=later)
    assert (done.signed, done.lacking) == (("timestamp",), ())
    assert done.expires > later + timedelta(days=7)
    assert clients().get_targetinfo("edge/x86-64/stable/1/release.json") is not None
    much = refresh(workshop.repository, workshop.keyring, now=NOW + timedelta(days=200))
    assert much.signed == ("snapshot", "timestamp")
    assert set(much.lacking) == {"beta", "stable"}


def test_refresh_signs_what_is_past_half_of_its_life(workshop: Workshop) -> None:
    publish(workshop.build("1"), workshop.repository, workshop.keyring)
    done = refresh(workshop.repository, workshop.keyring, now=NOW + timedelta(days=400))
    assert done.signed == ("beta", "stable", "targets", "snapshot", "timestamp")
    roles = Store.open(workshop.repository).roles
    assert roles.channels["stable"].targets
    later: datetime = roles.channels["stable"].expires
    assert later > NOW + timedelta(days=700)


def test_terms_are_read_by_expiry_from_the_channel(workshop: Workshop) -> None:
    for version, minimum in (("1", None), ("2", None), ("3", None), ("4", "2")):
        publish(workshop.build(version), workshop.repository, workshop.keyring, wanted=Terms(minimum=minimum))
    expire(workshop.repository, workshop.keyring, keep=1)
    assert Store.open(workshop.repository).versions("stable", "edge") == ("2", "4")
