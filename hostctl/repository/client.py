"""One look at a repository: what is new by the rules of TUF and of this host's clock, and payloads as bytes.

Trust starts at the root that came with the verified root file system, on every run. The cache in the state folder only
spares downloads and remembers version numbers: it is read into a scratch folder, where every signature is checked
again, and written back afterwards; a full or read-only ``/var`` does not stop an update. Mirrors are asked in turn and
trusted no more than anybody. Nothing here writes a slot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cmp_to_key
from pathlib import Path

from tuf.api.metadata import Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from hostctl.config.versions import compare
from hostctl.durable import write_file
from hostctl.repository import clock
from hostctl.repository.errors import (
    RepositoryExpiredError,
    RepositoryRollbackError,
    RepositoryUnavailableError,
    RepositoryUntrustedError,
)
from hostctl.repository.fetch import Fetcher
from hostctl.repository.release import (
    MAX_DESCRIPTION,
    Delta,
    DescriptionError,
    Offer,
    Payload,
    Release,
    decode_deltas,
    decode_offer,
    decode_release,
    decode_versions,
    deltas_target,
    release_target,
    versions_target,
)
from hostctl.repository.trusted import HISTORY, Trusted, guarded


def _wall() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a host gets its updates, and what it trusts."""

    url: str
    """Base URL of the repository."""
    name: str
    channel: str
    root: bytes
    """The root metadata that came with the release."""
    cache: Path
    """Folder for metadata; nothing in it is trusted. What the host remembers of time lies beside it."""
    mirrors: tuple[str, ...] = ()
    """Other base URLs of the same files, asked in this order when the repository does not answer well."""
    proxy: str | None = None
    """URL of an HTTP proxy for all of them."""
    built: datetime = clock.START
    """When the running release was built."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return all base URLs, without a slash at the end."""
        return tuple(url.rstrip("/") for url in (self.url, *self.mirrors))


class RepositoryClient:
    """What a repository says now: metadata are refreshed when it is made.

    Args:
        source: where, and what is trusted.
        fetcher: downloads, other than as ``source`` says; for tests.
        wall: the wall clock.

    Raises:
        RepositoryUnavailableError: no address answers well.
        RepositoryUntrustedError: what answers breaks a rule of TUF, has expired or goes back in time.
    """

    def __init__(self, source: Source, fetcher: Fetcher | None = None, *, wall: Callable[[], datetime] = _wall) -> None:
        self.unkept = ""
        """Why what was learnt cannot be kept for the next look, if it cannot."""
        self._source = source
        self._memory = clock.read(self._memory_file)
        self._wall = wall()
        self._floor = clock.floor(source.built, self._memory)
        # A host whose clock is known to be wrong cannot judge the dates of certificates. TUF needs no TLS.
        self._fetcher = fetcher or Fetcher(proxy=source.proxy, dates=self._wall >= self._floor)
        with guarded("the scratch folder"):
            self._scratch = tempfile.TemporaryDirectory(prefix="hostctl-tuf-")
            self._folder = Path(self._scratch.name)
            _copy(source.cache, self._folder, durable=False)
        self._trusted = self._refresh()

    @property
    def _memory_file(self) -> Path:
        return clock.memory_file(self._source.cache.parent)

    @property
    def now(self) -> datetime:
        """Return the time that decisions go by: the wall clock as it was when this look began, or the floor."""
        return max(self._wall, self._floor)

    def _refresh(self) -> Trusted:
        failed: list[RepositoryUnavailableError | RepositoryUntrustedError] = []
        for address in self._source.addresses:
            try:
                trusted = self._look(address)
            except (RepositoryUnavailableError, RepositoryUntrustedError) as error:
                failed.append(error)
            else:
                self._keep()
                return trusted
        # That somebody lies is the worse news.
        worst = next((error for error in failed if isinstance(error, RepositoryUntrustedError)), failed[0])
        others = [error.brief for error in failed if error is not worst]
        worst.details = "\n".join([*worst.details.splitlines(), *others])
        self._keep()
        raise worst

    def _look(self, address: str) -> Trusted:
        source = self._source
        trusted = Trusted(metadata=f"{address}/metadata/", root=source.root, folder=self._folder, fetcher=self._fetcher)
        trusted.refresh()
        # This loads the channel's role, so that everything to come lies in memory, of one state of the repository.
        trusted.find([versions_target(source.name, source.channel)])
        self._judge(trusted)
        return trusted

    def _judge(self, trusted: Trusted) -> None:
        """Apply what TUF leaves to its user: the floor of the clock, and versions that outlive the cache."""
        root = trusted.role(Root.type, Root)
        timestamp = trusted.role(Timestamp.type, Timestamp)
        roles: dict[str, Signed] = {
            Root.type: root,
            Timestamp.type: timestamp,
            Snapshot.type: trusted.role(Snapshot.type, Snapshot),
            Targets.type: trusted.role(Targets.type, Targets),
        }
        if trusted.has(self._source.channel):
            roles[self._source.channel] = trusted.role(self._source.channel, Targets)
        keys = clock.fingerprint(root.roles[Timestamp.type].keyids)
        self._floor = clock.floor(self._source.built, self._memory, keys)
        for name, role in roles.items():
            if role.is_expired(self.now):
                raise RepositoryExpiredError(
                    f"metadata of {name} have expired",
                    details=f"on {role.expires:%Y-%m-%d}; it is {self.now:%Y-%m-%d}, whatever the clock says",
                    hint="the publisher must renew them, or somebody holds back newer ones",
                )
        known = self._memory.timestamp if keys == self._memory.keys else 0
        if timestamp.version < known:
            raise RepositoryRollbackError(
                "the timestamp is older than one seen before",
                details=f"version {timestamp.version} after {known}",
                hint="a mirror may lag behind, or somebody may replay old files",
            )
        signed = clock.signing_time(timestamp.unrecognized_fields, [role.expires for role in roles.values()])
        self._floor = clock.raised(self._floor, self._wall, signed)
        self._memory = clock.Memory(
            proven=None if self._floor == self._source.built else self._floor,
            keys=keys,
            timestamp=timestamp.version,
        )

    def _keep(self) -> None:
        """Write back what was learnt. A host whose ``/var`` takes nothing more can be updated nevertheless."""
        try:
            clock.write(self._memory_file, self._memory)
            _copy(self._folder, self._source.cache, durable=True)
        except OSError as error:
            self.unkept = str(error)

    def _document(self, target: str) -> bytes | None:
        (info,) = self._trusted.find([target])
        if info is None:
            return None
        if info.length > MAX_DESCRIPTION:
            raise DescriptionError(f"{target} is too long")
        digest = info.hashes.get("sha256")
        if digest is None:
            raise DescriptionError(f"{target} has no sha256")
        parent, _, name = target.rpartition("/")
        return self._fetcher.small(self._urls(f"targets/{parent}/{digest}.{name}"), info.length, digest)

    def _urls(self, path: str) -> list[str]:
        return [f"{address}/{path}" for address in self._source.addresses]

    def offers(self) -> tuple[Offer, ...]:
        """Return what the channel offers, newest first.

        Raises:
            DescriptionError: the list names a release that is not offered, or an offer is malformed.
            RepositoryUnavailableError, RepositoryUntrustedError, PayloadError: see :meth:`small`.
        """
        source = self._source
        data = self._document(versions_target(source.name, source.channel))
        versions = sorted(() if data is None else decode_versions(data), key=cmp_to_key(compare), reverse=True)
        targets = [release_target(source.name, source.channel, version) for version in versions]
        found = self._trusted.find(targets)
        return tuple(self._offer(version, info) for version, info in zip(versions, found, strict=True))

    def _offer(self, version: str, info: TargetFile | None) -> Offer:
        if info is None:
            raise DescriptionError(f"the repository lists release {version}, but does not describe it")
        offer = decode_offer(info.custom)
        if (offer.name, offer.version) != (self._source.name, version):
            raise DescriptionError(f"{info.path} offers {offer.name} {offer.version}")
        return offer

    def release(self, version: str) -> Release:
        """Return the description of a release in the channel.

        Raises:
            DescriptionError: it is missing, malformed or of something else.
            RepositoryUnavailableError, RepositoryUntrustedError, PayloadError: see :meth:`small`.
        """
        target = release_target(self._source.name, self._source.channel, version)
        data = self._document(target)
        if data is None:
            raise DescriptionError(f"the repository lists release {version}, but does not describe it")
        release = decode_release(data)
        if (release.name, release.version) != (self._source.name, version):
            raise DescriptionError(f"{target} describes {release.title}")
        return release

    def deltas(self, version: str) -> tuple[Delta, ...]:
        """Return the deltas to a release in the channel.

        Raises:
            DescriptionError: their list is malformed.
            RepositoryUnavailableError, RepositoryUntrustedError, PayloadError: see :meth:`small`.
        """
        data = self._document(deltas_target(self._source.name, self._source.channel, version))
        return () if data is None else decode_deltas(data)

    def small(self, payload: Payload) -> bytes:
        """Return a payload that fits into memory, checked.

        Raises:
            PayloadError: no address has it as it was described.
            RepositoryUnavailableError: no address answers well.
        """
        return self._fetcher.small(self._urls(payload.path), payload.bytes, payload.sha256)

    def ranges(self, payload: Payload, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes of a payload from ``start`` up to, without, ``end``.

        What breaks off is resumed, at another address if need be. Nothing is checked but the number of bytes: whoever
        finds them wrong calls :meth:`turn_away` and asks again. Parts asked for in rising order cost one download even
        of a server that knows no ranges.

        Raises:
            RepositoryUnavailableError: no address answers well.
        """
        return self._fetcher.ranges(self._urls(payload.path), payload.bytes, start, end)

    @property
    def addresses(self) -> int:
        """Return how many addresses there are, so how often asking again can make sense."""
        return len(self._source.addresses)

    def turn_away(self) -> None:
        """Ask the next address first from now on: what the present one sent was wrong."""
        self._fetcher.turn_away()


def _copy(source: Path, target: Path, *, durable: bool) -> None:
    """Copy metadata. ``root.json`` stays behind: which root is in force is found anew each time."""
    names = [path.relative_to(source) for pattern in ("*.json", f"{HISTORY}/*.json") for path in source.glob(pattern)]
    for name in names:
        if name == Path("root.json"):
            continue
        try:
            data = (source / name).read_bytes()
        except OSError:
            continue  # a damaged file system; what is missing is loaded again
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not durable:
            place.write_bytes(data)
        elif not place.is_file() or place.read_bytes() != data:
            write_file(place, data)
