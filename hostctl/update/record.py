"""What the updater writes into the history of the host, on a disk that may be full.

The history serves people; which releases must not be taken again can be told from the boot entries as well. So what
cannot be written is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable

from hostctl.boot.entries import BootEntry
from hostctl.boot.slots import Slots
from hostctl.repository.release import Release
from hostctl.update import history
from hostctl.update.history import Refused
from hostctl.update.host import UpdateHost
from hostctl.update.steps import Steps


def _add(host: UpdateHost, steps: Steps, event: str, version: str, cause: str, root_hash: str) -> None:
    try:
        last = next(reversed(history.read(host.history)), None)
        if last is not None and (last.event, last.version, last.cause, last.root_hash) == (
            event,
            version,
            cause,
            root_hash,
        ):
            return  # a timer that fails for the same cause every hour is one event
        history.append(host.history, event, version, cause, root_hash=root_hash)
    except OSError as error:
        steps.warn(f"the history cannot be written, it will not know of: {version} {event}, {cause}: {error}")


def failed(host: UpdateHost, release: Release, cause: str, steps: Steps) -> None:
    """Note that an update failed, and why."""
    _add(host, steps, history.FAILED, release.version, cause, release.root_hash)


def staged(host: UpdateHost, release: Release, steps: Steps) -> None:
    """Note that a release will be tried by the next boot."""
    _add(host, steps, history.STAGED, release.version, f"update from {host.version}", release.root_hash)


def rolled_back(host: UpdateHost, other: str, cause: str, steps: Steps) -> None:
    """Note that the running release is left for ``other``."""
    _add(host, steps, history.ROLLED_BACK, host.version, f"to {other}: {cause}", host.root_hash)


def refused(host: UpdateHost, entries: Iterable[BootEntry], slots: Slots, steps: Steps) -> Refused:
    """Return the releases that must not be taken again, and note those that the boot loader gave up."""
    entries, digests = tuple(entries), slots.digests()
    try:
        return history.note_given_up(host.history, entries, host.version, digests)
    except OSError as error:
        steps.warn(f"the history cannot be written: {error}")
    given_up = {entry.version for entry in entries if entry.bad} - {host.version}
    try:
        known = history.refused(history.read(host.history))
    except OSError:
        known = Refused(digests=frozenset(), versions=frozenset())
    return Refused(
        digests=known.digests | {digests[version] for version in given_up if version in digests},
        versions=known.versions | {version for version in given_up if version not in digests},
    )
