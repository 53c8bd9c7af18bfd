"""Makes room in a repository, and keeps its metadata from expiring.

Releases are first taken out of their channel by one commit; files go only when nothing has led to them for the grace
period. So every state that was the newest at any moment of that time stays whole, and a host that has begun to read it
comes to its end. What a kept release needs is never dropped: the releases that older hosts must pass through, and one
that every host may take.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from pathlib import Path

from tuf.api.metadata import Targets

from hostctl.config.versions import compare
from hostctl.errors import UsageError
from hostctl.repository import roles
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import MetadataError, load
from hostctl.repository.offers import drop
from hostctl.repository.release import Offer, Payload, decode_deltas, decode_release
from hostctl.repository.roles import SNAPSHOT, TARGETS, TIMESTAMP
from hostctl.repository.rollout import percent_at
from hostctl.repository.store import Named, Store, locked, target_place
from hostctl.repository.stored import require_root

KEEP = 5
GRACE = timedelta(days=1)
_ROLE_FILE = re.compile(r"([1-9][0-9]{0,8})\.([a-z0-9-]+)\.json")
_byorder = cmp_to_key(compare)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """What was dropped and removed."""

    dropped: tuple[Named, ...]
    files: tuple[str, ...]
    """Paths of removed files, below the repository."""
    bytes: int
    """What they took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refreshed:
    """What :func:`refresh` signed anew."""

    signed: tuple[str, ...]
    lacking: tuple[str, ...]
    """Roles that are past half of their life and whose keys are not at hand."""
    expires: datetime
    """When the timestamp expires."""


def kept(offers: Sequence[Offer], count: int, now: datetime) -> frozenset[str]:
    """Return the versions of a channel that must stay. Pure.

    These are the newest ``count``, the newest that every host may take, and those that a host older than the minimum
    of one that stays must pass through.
    """
    ordered = sorted(offers, key=lambda offer: _byorder(offer.version), reverse=True)
    wanted = list(ordered[:count])
    wanted += [offer for offer in ordered if offer.rollout is None or percent_at(offer.rollout, now) >= 100][:1]
    found: dict[str, Offer] = {}
    while wanted:
        offer = wanted.pop()
        if offer.version in found:
            continue
        found[offer.version] = offer
        if offer.minimum is not None:
            between = [
                other
                for other in ordered
                if compare(other.version, offer.minimum) >= 0 and compare(other.version, offer.version) < 0
            ]
            wanted += between[-1:]  # the oldest: more hosts can go there than to any later one
    return frozenset(found)


def expire(
    repository: Path,
    keyring: Keyring,
    *,
    keep: int = KEEP,
    channel: str | None = None,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Expired:
    """Drop old releases from their channels, then remove the files that nothing leads to.

    Args:
        repository: the folder.
        keyring: what signs; not needed when nothing is dropped.
        keep: how many releases of an image stay in each channel, at least 1.
        channel: the only one to drop releases from; none is all of them.
        grace: how long a file stays after it was needed last.
        dry_run: say what would happen, and do nothing.
        now: the present, UTC.

    Raises:
        UsageError: ``keep`` or ``grace`` has no meaning.
        MissingKeyError, RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    if keep < 1 or grace < timedelta(0):
        raise UsageError("nothing is left of a repository without releases", hint="--keep 1 or more, --grace 0 or more")
    moment = now or datetime.now(UTC)
    with locked(repository):
        require_root(repository, keyring)
        store = Store.open(repository)
        dropped = tuple(_old(store, store.channels if channel is None else (channel,), keep, moment))
        for place in dropped:
            drop(store, place)
        if dropped and not dry_run:
            store.commit(keyring, moment)
        files = tuple(_unneeded(store, moment - grace))
        total = sum(path.stat().st_size for path in files)
        if not dry_run:
            _remove(repository, files)
        names = tuple(sorted(path.relative_to(repository).as_posix() for path in files))
        return Expired(dropped=dropped, files=names, bytes=total)


def _old(store: Store, channels: Sequence[str], keep: int, now: datetime) -> Iterator[Named]:
    for channel in channels:
        places = store.listed(channel)
        for name in sorted({place.name for place in places}):
            offers = [offer for place in places if place.name == name and (offer := store.offer(place)) is not None]
            staying = kept(offers, keep, now)
            for offer in sorted(offers, key=lambda offer: _byorder(offer.version)):
                if offer.version not in staying:
                    yield Named(channel=channel, name=name, version=offer.version)


def _unneeded(store: Store, since: datetime) -> Iterator[Path]:
    """Yield the files that no state since ``since`` leads to, and that are older than that."""
    repository, oldest = store.path, since.timestamp()
    metadata = _role_files(repository)
    current = {TARGETS: store.roles.targets.version, SNAPSHOT: store.roles.snapshot.version}
    current |= {name: role.version for name, role in store.roles.channels.items()}
    needed: set[Path] = set()
    for name, version in current.items():
        files = metadata.get(name, {})
        for number, path in files.items():
            after = files.get(number + 1)
            if number >= version or (after is not None and after.stat().st_mtime > oldest):
                needed.add(path)
    for path in sorted(needed):
        if path.name.split(".", 1)[1].removesuffix(".json") in store.roles.channels:
            needed |= set(_led_to(repository, path))
    known = {path for files in metadata.values() for path in files.values()}
    for folder in ("targets", "payloads", "metadata"):
        for path in sorted((repository / folder).rglob("*")):
            ours = folder != "metadata" or path in known or path.name.endswith(".tmp")
            if path.is_file() and ours and path not in needed and path.stat().st_mtime <= oldest:
                yield path


def _role_files(repository: Path) -> dict[str, dict[int, Path]]:
    """Return the numbered metadata by role and version; roots, which always stay, are not among them."""
    found: dict[str, dict[int, Path]] = {}
    for path in (repository / "metadata").iterdir():
        match = _ROLE_FILE.fullmatch(path.name)
        if match and match[2] != roles.ROOT:
            found.setdefault(match[2], {})[int(match[1])] = path
    return found


def _led_to(repository: Path, metadata: Path) -> Iterator[Path]:
    """Yield the files that a version of a channel's metadata leads to."""
    try:
        targets = load(metadata.read_bytes(), Targets).signed.targets
    except MetadataError:
        return  # what a cut-off run left; nobody is led to it
    for target, info in targets.items():
        place = target_place(repository, target, info.hashes["sha256"])
        yield place
        if place.is_file():
            for payload in payloads_of(target, place.read_bytes()):
                yield repository / payload.path


def payloads_of(target: str, data: bytes) -> tuple[Payload, ...]:
    """Return the payloads that a signed target names.

    Raises:
        DescriptionError: it is malformed.
    """
    if target.endswith("/release.json"):
        release = decode_release(data)
        return release.index, release.segments, release.signature
    if target.endswith("/deltas.json"):
        return tuple(payload for delta in decode_deltas(data) for payload in (delta.index, delta.segments))
    return ()


def _remove(repository: Path, files: Collection[Path]) -> None:
    for path in files:
        path.unlink()
    for folder in sorted({parent for path in files for parent in path.parents}, reverse=True):
        if folder.is_relative_to(repository) and len(folder.relative_to(repository).parts) > 1:
            _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def refresh(repository: Path, keyring: Keyring, *, now: datetime | None = None) -> Refreshed:
    """Sign the timestamp anew, and whatever else is past half of its life and has its keys at hand.

    Raises:
        MissingKeyError: the key of the timestamp, or one that must sign with another, is not at hand.
        RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    moment = now or datetime.now(UTC)
    with locked(repository):
        require_root(repository, keyring)
        store = Store.open(repository)
        lacking = []
        for name in (SNAPSHOT, TARGETS, *store.channels):
            if store.roles.by_name(name).expires - moment > roles.life(name) / 2:
                continue
            role = roles.role_of(store.roles.root, store.roles.targets, name)
            if len(keyring.having(role)) < role.threshold:
                lacking.append(name)
            else:
                store.touch(name)
        if store.roles.root.expires - moment <= roles.life(roles.ROOT) / 2:
            lacking.append(roles.ROOT)
        store.touch(TIMESTAMP)
        signed = store.commit(keyring, moment)
        return Refreshed(signed=signed, lacking=tuple(lacking), expires=store.roles.timestamp.expires)
