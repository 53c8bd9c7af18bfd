"""Changes what a repository offers: releases are added, offered in another channel, or taken back.

Every change is one commit of the store: it is there as a whole or not at all, and one that was cut off is completed by
doing it again. A version never changes its content, in whichever channel it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cmp_to_key
from pathlib import Path

from tuf.api.metadata import Targets

from hostctl.config.versions import compare
from hostctl.errors import HostctlError
from hostctl.repository import drafts, roles, terms
from hostctl.repository.build import Build
from hostctl.repository.drafts import Draft
from hostctl.repository.keyring import Keyring
from hostctl.repository.metadata import load, sign
from hostctl.repository.release import (
    ARCHITECTURE,
    MAX_VERSIONS,
    Delta,
    Offer,
    Release,
    deltas_target,
    encode_deltas,
    encode_release,
    encode_versions,
    release_target,
    versions_target,
)
from hostctl.repository.store import Named, Store, locked, make_folder
from hostctl.repository.stored import require_root
from hostctl.repository.terms import Terms


class PublishedError(HostctlError):
    """The version is in the repository already, with other content."""

    id = "already-published"


class NoReleaseError(HostctlError):
    """The repository does not have such a release."""

    id = "no-release"


class ChannelFullError(HostctlError):
    """A channel has as many releases as it can list."""

    id = "channel-full"


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeDelta:
    """A delta and where its files lie until they are stored."""

    delta: Delta
    index: Path
    segments: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What is offered after a change."""

    release: Release
    channel: str
    offer: Offer
    deltas: tuple[Delta, ...]
    new: bool
    """False if the channel had the same release before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Initialised:
    """What :func:`initialise` left."""

    channels: tuple[str, ...]
    added: tuple[str, ...]
    root_version: int
    draft: Draft | None
    """Set when the channels wait for the key of ``targets``, which is not at hand."""


def initialise(repository: Path, keyring: Keyring, *, now: datetime | None = None) -> Initialised:
    """Make a repository if there is none, and add every channel that the keyring has a new key file of.

    Raises:
        MetadataError: it belongs to other keys, or is broken.
        MissingKeyError: a channel is to be added and the key of ``targets`` is not at hand.
        RepositoryBusyError: somebody else changes it.
    """
    moment = now or datetime.now(UTC)
    make_folder(repository)
    with locked(repository):
        store = Store.open_or_create(repository, keyring)
        added = tuple(sorted(set(keyring.channels) - set(store.channels)))
        draft = None
        if added and not store.fresh and not keyring.having(store.roles.root.roles[roles.TARGETS]):
            draft = _draft_channels(store, keyring, added, moment)
        else:
            _delegate(store, keyring, added)
        if store.changed:
            store.commit(keyring, moment)
        version = store.roles.root.version
        return Initialised(channels=store.channels, added=added, root_version=version, draft=draft)


def _delegate(store: Store, keyring: Keyring, channels: tuple[str, ...]) -> None:
    """Add channels, which the caller commits."""
    for channel in channels:
        roles.delegate(store.roles.targets, roles.channel_name(channel), [keyring.channels[channel]])
        store.add_channel(channel)


def _draft_channels(store: Store, keyring: Keyring, channels: tuple[str, ...], now: datetime) -> Draft:
    """Draft the delegations of new channels for the key of ``targets`` to sign elsewhere."""
    drafts.require_none(store.path, roles.TARGETS, discard=False)
    draft = load(sign(store.roles.targets, []), Targets)
    for channel in channels:
        roles.delegate(draft.signed, roles.channel_name(channel), [keyring.channels[channel]])
    draft.signed.version += 1
    draft.signed.expires = roles.expiry(roles.TARGETS, now)
    return drafts.settle(store, keyring, draft, now)


def add(
    build: Build,
    repository: Path,
    keyring: Keyring,
    *,
    channel: str | None = None,
    wanted: Terms | None = None,
    deltas: tuple[MadeDelta, ...] = (),
    now: datetime | None = None,
) -> Published:
    """Add a build to a channel of a repository. A repository that does not exist is made first.

    Args:
        build: what to publish, see :func:`hostctl.repository.build.read_build`.
        repository: the folder that is served over HTTP.
        keyring: what signs.
        channel: where to; none is the one that it was built for.
        wanted: on which terms it is offered; what is not said stays as it is.
        deltas: deltas to it, kept beside those that are there.
        now: the time from which lives count; none is the present.

    Raises:
        PublishedError: the version is there with other content.
        NoChannelError: the repository has no such channel.
        MissingKeyError: a key is not at hand.
        RepositoryBusyError: somebody else changes the repository.
        MetadataError: the repository's metadata are broken or signed by others.
    """
    moment = now or datetime.now(UTC)
    make_folder(repository)
    with locked(repository):
        store = Store.open_or_create(repository, keyring)
        if store.fresh:
            _delegate(store, keyring, tuple(sorted(keyring.channels)))
        release = build.release
        place = Named(channel=channel or build.channel, name=release.name, version=release.version)
        store.channel(place.channel)
        _require_same(store, release)
        for payload in (release.segments, release.index, release.signature):
            store.put_payload(payload, build.payloads[payload.sha256])
        for made in deltas:
            store.put_payload(made.delta.segments, made.segments)
            store.put_payload(made.delta.index, made.index)
        return _offer(store, keyring, place, release, wanted or Terms(), tuple(one.delta for one in deltas), moment)


def _require_same(store: Store, release: Release) -> None:
    for channel in store.channels:
        before = store.release(Named(channel=channel, name=release.name, version=release.version))
        if before is not None and before != release:
            raise PublishedError(
                f"{release.title} is in {store.path} already, with other content",
                details=f"there: root hash {before.root_hash}, boot image {before.uki_sha256}\n"
                f"here:  root hash {release.root_hash}, boot image {release.uki_sha256}",
                hint="a published version never changes: give the release a new version",
            )


def _offer(
    store: Store,
    keyring: Keyring,
    place: Named,
    release: Release,
    wanted: Terms,
    deltas: tuple[Delta, ...],
    now: datetime,
) -> Published:
    before = store.offer(place)
    plain = Offer(name=place.name, architecture=ARCHITECTURE, version=place.version)
    offer = terms.offer(before or plain, wanted, now)
    kept = {delta.from_root_hash: delta for delta in (*store.deltas(place), *deltas)}
    ordered = tuple(sorted(kept.values(), key=lambda delta: cmp_to_key(compare)(delta.from_version)))
    name, channel = place.name, place.channel
    store.put(channel, release_target(name, channel, place.version), encode_release(release), offer)
    store.put(channel, deltas_target(name, channel, place.version), encode_deltas(ordered))
    _list(store, channel, name, {*store.versions(channel, name), place.version})
    store.touch(channel)
    store.commit(keyring, now)
    return Published(release=release, channel=channel, offer=offer, deltas=ordered, new=before is None)


def _list(store: Store, channel: str, name: str, versions: set[str]) -> None:
    if len(versions) > MAX_VERSIONS:
        raise ChannelFullError(
            f"channel {channel} lists {MAX_VERSIONS} versions of {name} already", hint="`hostctl repo expire` drops old"
        )
    store.put(channel, versions_target(name, channel), encode_versions(sorted(versions, key=cmp_to_key(compare))))


def find(store: Store, version: str, name: str | None = None, channel: str | None = None) -> Named:
    """Return where a release is; when several channels have it, the first.

    Args:
        store: the repository.
        version: of the release.
        name: of its image; none if the repository has only one of that version.
        channel: where to look; none is everywhere.

    Raises:
        NoReleaseError: it is nowhere, or several images have this version.
        NoChannelError: there is no such channel.
    """
    places = [
        place
        for one in ((channel,) if channel else store.channels)
        for place in sorted(store.listed(one), key=lambda place: place.name)
        if place.version == version and name in (None, place.name)
    ]
    where = f"channel {channel}" if channel else "the repository"
    if not places:
        raise NoReleaseError(f"{where} has no release {version}", hint="`hostctl repo stats` lists what is there")
    names = sorted({place.name for place in places})
    if len(names) > 1:
        raise NoReleaseError(
            f"{where} has {version} of several images", details=", ".join(names), hint="say which with --name"
        )
    return places[0]


def promote(
    repository: Path,
    keyring: Keyring,
    version: str,
    channel: str,
    *,
    name: str | None = None,
    wanted: Terms | None = None,
    now: datetime | None = None,
) -> Published:
    """Offer a release of any channel in ``channel`` as well, with its deltas; payloads are not copied.

    In the channel that has it already this changes the terms. The minimum is taken over, a rollout is not.

    Raises:
        NoReleaseError, NoChannelError: there is no such release or channel.
        MissingKeyError, RepositoryBusyError, MetadataError: see :func:`add`.
    """
    moment = now or datetime.now(UTC)
    with locked(repository):
        require_root(repository, keyring)
        store = Store.open(repository)
        store.channel(channel)
        source = find(store, version, name)
        release, before = store.release(source), store.offer(source)
        if release is None or before is None:
            raise NoReleaseError(f"channel {source.channel} lists {version}, but does not describe it")
        place = Named(channel=channel, name=source.name, version=version)
        asked = wanted or Terms()
        if store.offer(place) is None and asked.minimum is None:
            asked = Terms(minimum=before.minimum, rollout=asked.rollout)
        everywhere = [Named(channel=one, name=source.name, version=version) for one in store.channels]
        deltas = {delta.from_root_hash: delta for one in everywhere for delta in store.deltas(one)}
        return _offer(store, keyring, place, release, asked, tuple(deltas.values()), moment)


def withdraw(
    repository: Path,
    keyring: Keyring,
    version: str,
    channel: str,
    *,
    name: str | None = None,
    now: datetime | None = None,
) -> Named:
    """Take a release out of a channel and return what it was. Its files stay until they expire.

    Raises:
        NoReleaseError, NoChannelError: there is no such release or channel.
        MissingKeyError, RepositoryBusyError, MetadataError: see :func:`add`.
    """
    with locked(repository):
        require_root(repository, keyring)
        store = Store.open(repository)
        place = find(store, version, name, channel)
        drop(store, place)
        store.commit(keyring, now or datetime.now(UTC))
        return place


def drop(store: Store, place: Named) -> None:
    """Take a release out of its channel; the caller commits."""
    name, channel, version = place.name, place.channel, place.version
    store.drop(channel, release_target(name, channel, version))
    store.drop(channel, deltas_target(name, channel, version))
    _list(store, channel, name, set(store.versions(channel, name)) - {version})
