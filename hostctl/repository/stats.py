"""What hosts would fetch: the full payload of each release and every delta to it, in bytes, and what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from hostctl.config.versions import compare
from hostctl.repository.release import Delta, Release
from hostctl.repository.store import Named, Store

FULL, DELTA = "full", "delta"


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A way for a host to a release, and what it fetches on it: index, segments and signature."""

    path: str
    """``full`` or ``delta``."""
    from_version: str | None
    """Of a delta."""
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseStats:
    """The ways to one release of a channel."""

    channel: str
    name: str
    version: str
    root_bytes: int
    uki_bytes: int
    ways: tuple[Way, ...]
    """The full payload first, then deltas, from the newest."""

    @property
    def full(self) -> int:
        """Return what a host fetches that has nothing of it."""
        return self.ways[0].bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """What a host of one release fetches to get to the newest."""

    channel: str
    name: str
    running: str
    newest: str
    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A repository in figures."""

    releases: tuple[ReleaseStats, ...]
    fetches: tuple[Fetch, ...]
    payload_bytes: int
    """All files below payloads, each of which is stored once."""
    payload_files: int
    metadata_bytes: int
    """The newest metadata: what a host reads that has none."""


def stats(repository: Path) -> Stats:
    """Read a repository's metadata and return its figures. Payloads are not read.

    Raises:
        NoRepositoryError, MetadataError: there is none, or it is broken.
        StoredFileError: a description is missing or altered.
    """
    store = Store.open(repository)
    found = [one for channel in store.channels for place in store.listed(channel) if (one := _ways(store, place))]
    found.sort(key=lambda one: (one.channel, one.name, cmp_to_key(compare)(one.version)))
    payloads = [path.stat().st_size for path in (repository / "payloads").glob("*/*") if path.is_file()]
    return Stats(
        releases=tuple(found),
        fetches=tuple(_fetches(found)),
        payload_bytes=sum(payloads),
        payload_files=len(payloads),
        metadata_bytes=_metadata_bytes(store),
    )


def _ways(store: Store, place: Named) -> ReleaseStats | None:
    release = store.release(place)
    if release is None:
        return None
    deltas = sorted(store.deltas(place), key=lambda delta: cmp_to_key(compare)(delta.from_version), reverse=True)
    full = Way(path=FULL, from_version=None, bytes=_bytes(release, release))
    shorter = [Way(path=DELTA, from_version=delta.from_version, bytes=_bytes(release, delta)) for delta in deltas]
    return ReleaseStats(
        channel=place.channel,
        name=place.name,
        version=place.version,
        root_bytes=release.root_bytes,
        uki_bytes=release.uki_bytes,
        ways=(full, *shorter),
    )


def _bytes(release: Release, way: Release | Delta) -> int:
    return way.index.bytes + way.segments.bytes + release.signature.bytes


def _fetches(releases: list[ReleaseStats]) -> list[Fetch]:
    """Return what hosts of each older release fetch to get to the newest of their channel."""
    fetches = []
    newest = {(one.channel, one.name): one for one in releases}
    for one in releases:
        goal = newest[one.channel, one.name]
        if one is goal:
            continue
        shorter = [way for way in goal.ways if way.from_version == one.version]
        way = min([*shorter, goal.ways[0]], key=lambda way: way.bytes)
        fetches.append(
            Fetch(
                channel=one.channel,
                name=one.name,
                running=one.version,
                newest=goal.version,
                path=way.path,
                bytes=way.bytes,
            )
        )
    return fetches


def _metadata_bytes(store: Store) -> int:
    found, base = store.roles, store.path / "metadata"
    files = [base / "timestamp.json", base / f"{found.snapshot.version}.snapshot.json"]
    files += [base / f"{found.root.version}.root.json", base / f"{found.targets.version}.targets.json"]
    files += [base / f"{role.version}.{name}.json" for name, role in found.channels.items()]
    return sum(path.stat().st_size for path in files)
