"""Checks a whole repository offline: signatures, versions, expiry, and every file by its hash. Nothing is changed.

All that is wrong is found in one run, with the file it is wrong in. What is only unusual, or will be wrong soon, is a
warning. That payloads make what they should is a longer check, see ``applied.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.metadata import MetaFile, TargetFile

from hostctl.durable import CHUNK
from hostctl.errors import HostctlError
from hostctl.payload.index import decode_index
from hostctl.repository import drafts, roles
from hostctl.repository.applied import apply_all
from hostctl.repository.expire import payloads_of
from hostctl.repository.metadata import MetadataError
from hostctl.repository.release import (
    Delta,
    Payload,
    Release,
    decode_deltas,
    decode_offer,
    decode_release,
    decode_versions,
    folder,
)
from hostctl.repository.roles import SNAPSHOT, TARGETS, TIMESTAMP
from hostctl.repository.store import Store, target_place
from hostctl.repository.stored import read_roots

SOON = 0.25
"""Part of a life below which what is left of it is too little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is wrong, or will be."""

    file: str
    """Path below the repository."""
    problem: str


@dataclass(kw_only=True, slots=True)
class Verified:
    """What was found."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    releases: int = 0
    files: int = 0
    bytes: int = 0
    applied: int = 0
    """Payloads that were applied, for better or worse."""


class _Check:
    """One run over a repository."""

    def __init__(self, repository: Path, now: datetime) -> None:
        self.repository = repository
        self.now = now
        self.found = Verified()
        self.releases: list[Release] = []
        self.ways: list[tuple[Release, Delta]] = []
        self._payloads: dict[str, bool] = {}

    def wrong(self, path: Path | str, problem: str) -> None:
        """Note an error."""
        self.found.errors.append(Finding(file=self._name(path), problem=problem))

    def unusual(self, path: Path | str, problem: str) -> None:
        """Note a warning."""
        self.found.warnings.append(Finding(file=self._name(path), problem=problem))

    def _name(self, path: Path | str) -> str:
        return path.relative_to(self.repository).as_posix() if isinstance(path, Path) else path

    def content(self, path: Path, length: int | None, sha256: str | None, *, keep: bool = False) -> bytes | None:
        """Check a file's length and hash; return its bytes if they are right and asked for."""
        digest, total, kept = hashlib.sha256(), 0, b""
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    total += len(chunk)
                    kept += chunk if keep else b""
        except OSError as error:
            self.wrong(path, error.strerror or "cannot be read")
            return None
        self.found.files += 1
        self.found.bytes += total
        if length is not None and total != length:
            self.wrong(path, f"has {total} bytes instead of {length}")
            return None
        if sha256 is not None and digest.hexdigest() != sha256:
            self.wrong(path, f"has the SHA-256 {digest.hexdigest()}")
            return None
        return kept

    def lives(self, path: Path, role: str, expires: datetime) -> None:
        """Check when metadata expire."""
        left = expires - self.now
        if left.total_seconds() <= 0:
            self.wrong(path, f"expired {expires:%Y-%m-%d %H:%M} UTC: hosts refuse it")
        elif left < roles.life(role) * SOON:
            self.unusual(path, f"expires {expires:%Y-%m-%d %H:%M} UTC, in {left.days} days")

    def metadata(self, store: Store) -> None:
        """Check the files of all roles against what names them; signatures were checked when they were read."""
        found = store.roles
        base = self.repository / "metadata"
        self.lives(base / f"{found.root.version}.root.json", roles.ROOT, found.root.expires)
        self.lives(base / "timestamp.json", TIMESTAMP, found.timestamp.expires)
        named: list[tuple[str, int, datetime, MetaFile]] = [
            (SNAPSHOT, found.snapshot.version, found.snapshot.expires, found.timestamp.snapshot_meta)
        ]
        for name, role in ((TARGETS, found.targets), *found.channels.items()):
            named.append((name, role.version, role.expires, found.snapshot.meta[f"{name}.json"]))
        for name, version, expires, meta in named:
            path = base / f"{meta.version}.{name}.json"
            if version != meta.version:
                self.wrong(path, f"holds version {version}")
            self.content(path, meta.length, (meta.hashes or {}).get("sha256"))
            self.lives(path, name, expires)

    def channel(self, store: Store, channel: str) -> None:
        """Check every target of a channel, and what it leads to."""
        listed: dict[str, set[str]] = {}
        described: dict[str, set[str]] = {}
        found: dict[str, Release] = {}
        ways: dict[str, tuple[Delta, ...]] = {}
        for target, info in sorted(store.channel(channel).targets.items()):
            path = target_place(self.repository, target, info.hashes["sha256"])
            data = self.content(path, info.length, info.hashes["sha256"], keep=True)
            if data is None:
                continue
            name = target.split("/")[0]
            try:
                if target.endswith("/releases.json"):
                    listed[name] = set(decode_versions(data))
                elif target.endswith("/release.json"):
                    release = found[target.rpartition("/")[0]] = self.release(path, channel, target, info, data)
                    described.setdefault(name, set()).add(release.version)
                elif target.endswith("/deltas.json"):
                    ways[target.rpartition("/")[0]] = self.deltas(data)
                else:
                    self.unusual(path, "is nothing that a host would read")
                for payload in payloads_of(target, data):
                    self.payload(payload)
            except HostctlError as error:
                self.wrong(path, f"{error.brief}: {error.details}".rstrip(": "))
        self.releases += found.values()
        self.ways += [(found[place], delta) for place, deltas in ways.items() if place in found for delta in deltas]
        for name in sorted({*listed, *described}):
            if listed.get(name, set()) != described.get(name, set()):
                difference = ", ".join(sorted(listed.get(name, set()) ^ described.get(name, set())))
                self.wrong(f"channel {channel}", f"lists and descriptions of {name} differ: {difference}")

    def release(self, path: Path, channel: str, target: str, info: TargetFile, data: bytes) -> Release:
        """Check a release's description and offer, and return it."""
        release, offer = decode_release(data), decode_offer(info.custom)
        place = f"{folder(release.name, channel, release.architecture)}/{release.version}/release.json"
        if place != target or (offer.name, offer.version) != (release.name, release.version):
            self.wrong(path, f"describes {release.title} and offers {offer.name}_{offer.version}, at {target}")
        self.found.releases += 1
        self.index(release.index, release, None)
        return release

    def deltas(self, data: bytes) -> tuple[Delta, ...]:
        """Check a list of deltas, and return them."""
        deltas = decode_deltas(data)
        for delta in deltas:
            self.index(delta.index, None, delta)
        return deltas

    def applied(self) -> None:
        """Apply all payloads that were found, of which none is damaged."""
        for made in apply_all(self.repository, self.releases, self.ways):
            self.found.applied += made.tried
            if made.problem:
                (self.wrong if made.tried else self.unusual)(self.repository / made.index, made.problem)

    def index(self, payload: Payload, release: Release | None, delta: Delta | None) -> None:
        """Check what an index says against what names it."""
        path = self.repository / payload.path
        if not path.is_file() or path.stat().st_size != payload.bytes:
            return  # noted with the payloads
        try:
            index = decode_index(path.read_bytes())
        except HostctlError as error:
            self.wrong(path, f"{error.brief}: {error.details}".rstrip(": "))
            return
        segments = release.segments if release is not None else delta.segments if delta is not None else None
        if segments is not None and index.stored_bytes != segments.bytes:
            self.wrong(path, f"names {index.stored_bytes} stored bytes, not {segments.bytes}")
        if release is not None:
            sizes = {name: output.bytes for name, output in index.outputs.items()}
            if index.is_delta or sizes != {"root": release.root_bytes, "uki": release.uki_bytes}:
                self.wrong(path, f"is not the full payload of {release.title}")

    def payload(self, payload: Payload) -> None:
        """Check a payload, once."""
        if payload.path not in self._payloads:
            data = self.content(self.repository / payload.path, payload.bytes, payload.sha256)
            self._payloads[payload.path] = data is not None


def verify(
    repository: Path, *, trusted: bytes | None = None, apply: bool = False, now: datetime | None = None
) -> Verified:
    """Check everything that hosts can be led to.

    Args:
        repository: the folder.
        trusted: root metadata that hosts were built with; none trusts the oldest root that is there.
        apply: also apply all payloads as hosts do, unless something else is wrong already.
        now: the present, UTC.

    Raises:
        NoRepositoryError: there is none.
    """
    check = _Check(repository, now or datetime.now(UTC))
    try:
        roots = [root.signed.version for root in read_roots(repository)]
        store = Store.open(repository)
    except MetadataError as error:
        check.wrong("metadata", f"{error.brief}: {error.details}".rstrip(": "))
        return check.found
    for problem in _mismatch(repository, trusted, roots):
        check.wrong("metadata", problem)
    check.metadata(store)
    for channel in store.channels:
        check.channel(store, channel)
    for kind in drafts.pending(repository):
        check.unusual(drafts.draft_path(repository, kind), "waits for signatures (`hostctl repo sign`)")
    if apply and not check.found.errors:
        check.applied()
    return check.found


def _mismatch(repository: Path, trusted: bytes | None, versions: list[int]) -> Iterator[str]:
    if versions != list(range(versions[0], versions[-1] + 1)):
        yield f"roots {versions[0]} to {versions[-1]} are not all there"
    if trusted is not None:
        files = (repository / f"metadata/{version}.root.json" for version in versions)
        if trusted not in [path.read_bytes() for path in files]:
            yield "the root that the keys were made with is not among the repository's: hosts do not trust it"
