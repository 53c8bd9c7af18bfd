"""Which release a host takes, and which payload makes it. Pure.

A release is passed over for a reason, and the reasons are told, so that nobody has to guess why a host stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cmp_to_key

from hostctl.config.versions import compare
from hostctl.repository.release import Delta, Offer, Release
from hostctl.repository.rollout import included
from hostctl.update.history import Refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """The host that asks."""

    version: str
    """Of the running release."""
    root_hash: str
    machine_id: str
    by_hand: bool
    """Somebody asked for the update; rollouts are for hosts that update by themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A newer release that is not taken."""

    version: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What came of choosing."""

    release: Release | None
    passed: tuple[Passed, ...]
    """The newer ones that were passed over on the way, newest first."""


def refusal(offer: Offer, asker: Asker, now: datetime) -> str:
    """Return why a host does not take an offer, or nothing if it does.

    Args:
        offer: the offer, of a release that is newer than the running one.
        asker: the host.
        now: the time, aware.
    """
    if offer.minimum is not None and compare(asker.version, offer.minimum) < 0:
        return f"it needs release {offer.minimum} or newer to update from"
    if not asker.by_hand and not included(offer.rollout, asker.machine_id, offer.name, offer.version, now):
        return "its rollout has not reached this host yet"
    return ""


def choose(
    offers: Iterable[Offer], asker: Asker, refused: Refused, now: datetime, describe: Callable[[str], Release]
) -> Choice:
    """Return the newest release that the host may take. Never an older one than runs, whoever signed it.

    Args:
        offers: what the channel has.
        asker: the host.
        refused: what it must not take again.
        now: the time, aware.
        describe: returns the description of a version; called for those that are taken or refused by their root hash.

    Raises:
        DescriptionError: ``describe`` raises it.
    """
    passed: list[Passed] = []
    by_version = {offer.version: offer for offer in offers}
    for version in sorted(by_version, key=cmp_to_key(compare), reverse=True):
        offer = by_version[version]
        if compare(offer.version, asker.version) <= 0:
            break
        why = refusal(offer, asker, now)
        if not why:
            release = describe(offer.version)
            if not refused.holds(release.version, release.root_hash):
                return Choice(release=release, passed=tuple(passed))
            why = "it failed on this host, or was left by a rollback"
        passed.append(Passed(version=offer.version, why=why))
    return Choice(release=None, passed=tuple(passed))


def delta_from(deltas: Iterable[Delta], root_hash: str) -> Delta | None:
    """Return the delta that starts from the running root, if there is one."""
    return next((delta for delta in deltas if delta.from_root_hash == root_hash), None)
