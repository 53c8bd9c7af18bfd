from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hostctl.repository.release import Delta, Offer, Payload, Release
from hostctl.repository.rollout import Rollout, share
from hostctl.update.choose import Asker, choose, delta_from
from hostctl.update.history import Refused

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOTHING = Refused(digests=frozenset(), versions=frozenset())
PAYLOAD = Payload(bytes=1, sha256="00" * 32)
ASKER = Asker(version="2", root_hash="aa", machine_id="0123", by_hand=False)


def offer(version: str, minimum: str | None = None, rollout: Rollout | None = None) -> Offer:
    return Offer(name="host", architecture="x86-64", version=version, minimum=minimum, rollout=rollout)


def describe(version: str) -> Release:
    return Release(
        name="host",
        version=version,
        architecture="x86-64",
        root_hash=f"root of {version}",
        root_bytes=4096,
        salt="00",
        uuid="",
        tries=3,
        uki_bytes=1,
        uki_sha256="00",
        index=PAYLOAD,
        segments=PAYLOAD,
        signature=PAYLOAD,
    )


def taken(*offers: Offer, asker: Asker = ASKER, refused: Refused = NOTHING, now: datetime = NOW) -> str | None:
    release = choose(offers, asker, refused, now, describe).release
    return None if release is None else release.version


@pytest.mark.parametrize(
    ("versions", "wanted"),
    [((), None), (("1",), None), (("2",), None), (("1", "10", "9"), "10"), (("3", "2", "1"), "3")],
)
def test_the_newest_above_the_running_one(versions: tuple[str, ...], wanted: str | None) -> None:
    assert taken(*map(offer, versions)) == wanted


def test_older_releases_are_never_even_described() -> None:
    def fail(version: str) -> Release:
        raise AssertionError(version)

    assert choose(map(offer, ("1", "2")), ASKER, NOTHING, NOW, fail).release is None


def test_a_minimum_leads_over_the_releases_between() -> None:
    offers = (offer("5", minimum="3"), offer("4", minimum="3"), offer("3"))
    assert taken(*offers) == "3"
    assert taken(*offers, asker=replace(ASKER, version="3")) == "5"
    choice = choose(offers, ASKER, NOTHING, NOW, describe)
    assert [(passed.version, "release 3 or newer" in passed.why) for passed in choice.passed] == [
        ("5", True),
        ("4", True),
    ]


def test_a_failed_release_is_known_by_its_root() -> None:
    refused = Refused(digests=frozenset({"root of 4"}), versions=frozenset())
    choice = choose((offer("4"), offer("3")), ASKER, refused, NOW, describe)
    assert choice.release is not None
    assert choice.release.version == "3"
    assert [passed.version for passed in choice.passed] == ["4"]
    assert taken(offer("4"), refused=Refused(digests=frozenset(), versions=frozenset({"4"}))) is None


def test_a_rollout_is_for_hosts_that_update_by_themselves() -> None:
    place = share("0123", "host", "3")
    rollout = Rollout(start=NOW, hours=10, percent=100)
    before, after = (NOW + timedelta(hours=place / 10 + step) for step in (-0.1, 0.1))
    assert taken(offer("3", rollout=rollout), now=before) is None
    assert taken(offer("3", rollout=rollout), now=after) == "3"
    assert taken(offer("3", rollout=rollout), now=before, asker=replace(ASKER, by_hand=True)) == "3"
    assert taken(offer("4", rollout=rollout), offer("3"), now=NOW - timedelta(days=1)) == "3"


def test_the_delta_is_the_one_from_the_running_root() -> None:
    deltas = [
        Delta(from_version=version, from_root_hash=root, from_uki_sha256="", index=PAYLOAD, segments=PAYLOAD)
        for version, root in (("1", "bb"), ("2", "aa"))
    ]
    found = delta_from(deltas, "aa")
    assert found is not None
    assert found.from_version == "2"
    assert delta_from(deltas, "cc") is None
