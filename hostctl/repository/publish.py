"""Publishes a built release: checked, with its deltas, in one change of the repository.

Deltas are made before anything is signed, so hosts see a release together with the shortest ways to it. What takes long
needs no lock; the last step, which holds it, copies files and signs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hostctl.config.versions import compare
from hostctl.errors import UsageError
from hostctl.payload.delta import make_delta
from hostctl.payload.pack import Files
from hostctl.repository.build import MANIFEST, Build, described, read_build
from hostctl.repository.keyring import Keyring
from hostctl.repository.offers import MadeDelta, NoReleaseError, Published, add, find
from hostctl.repository.release import Delta, Release
from hostctl.repository.store import Named, Store
from hostctl.repository.stored import NoRepositoryError
from hostctl.repository.terms import Terms
from hostctl.repository.unpack import unpack

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Report to nobody."""
    del line


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder for unpacked images: in ``$TMPDIR``, else in /var/tmp, as /tmp is often memory."""
    place = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - a folder of its own is made in it
    with tempfile.TemporaryDirectory(prefix="hostctl-publish-", dir=place) as folder:
        yield Path(folder)


def publish(
    folder: Path,
    repository: Path,
    keyring: Keyring,
    *,
    channel: str | None = None,
    wanted: Terms | None = None,
    delta_from: Sequence[str] = (),
    report: Report = silent,
    now: datetime | None = None,
) -> Published:
    """Add a build to a channel of a repository, which is made if it does not exist.

    Args:
        folder: what ``hostctl build`` wrote.
        repository: the folder that is served over HTTP.
        keyring: what signs.
        channel: where to; none is the one that it was built for.
        wanted: on which terms it is offered; what is not said stays as it is.
        delta_from: releases to make deltas from: versions in the repository, or folders of builds.
        report: told a line about each delta.
        now: the time from which lives count; none is the present.

    Raises:
        BuildError: a build is not whole.
        UsageError: a delta cannot start from what is named.
        NoReleaseError: a version is not in the repository.
        PublishedError: the version is there with other content.
        NoChannelError, MissingKeyError, RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    with scratch() as place:
        new = _folder(place, "new")
        build = read_build(folder, new)
        sources = [
            _source(text, repository, build, _folder(place, f"old-{number}"))
            for number, text in enumerate(dict.fromkeys(delta_from))
        ]
        deltas = tuple(made for source in sources if (made := _delta(source, build, repository, report)) is not None)
        return add(build, repository, keyring, channel=channel, wanted=wanted, deltas=deltas, now=now)


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A release that a delta starts from."""

    release: Release
    scratch: Path
    files: Callable[[], Files]
    """Makes its root and boot image."""


def _source(text: str, repository: Path, build: Build, scratch_folder: Path) -> _Source:
    if (Path(text) / MANIFEST).is_file():
        old = read_build(Path(text), scratch_folder)
        source = _Source(release=old.release, scratch=scratch_folder, files=lambda: old.files)
    else:
        release = _published(text, repository, build)
        index, segments = repository / release.index.path, repository / release.segments.path
        source = _Source(
            release=release, scratch=scratch_folder, files=lambda: unpack(index, segments, release, scratch_folder)
        )
    old_release, new_release = source.release, build.release
    if old_release.name != new_release.name or compare(old_release.version, new_release.version) >= 0:
        raise UsageError(
            f"a delta to {new_release.title} cannot start from {old_release.title}",
            hint="--delta-from names an older release of the same image",
        )
    return source


def _published(version: str, repository: Path, build: Build) -> Release:
    hint = "--delta-from takes a version that is in the repository, or the folder of a build"
    try:
        store = Store.open(repository)
        release = store.release(find(store, version, build.release.name))
    except (NoRepositoryError, NoReleaseError) as error:
        raise NoReleaseError(error.brief, details=error.details, hint=hint) from error
    if release is None:
        raise NoReleaseError(f"{repository} lists {version}, but does not describe it", hint=hint)
    return release


def _delta(source: _Source, build: Build, repository: Path, report: Report) -> MadeDelta | None:
    """Return a delta, made or found; none if it would not be smaller than the full payload."""
    old, new = source.release, build.release
    found = _known(repository, old, new)
    if found is not None:
        report(f"delta from {old.version}: is there already")
        return found
    packed = make_delta(source.files(), build.files, _folder(source.scratch, "delta"))
    index, segments = described(packed.index), described(packed.segments)
    full = new.index.bytes + new.segments.bytes
    size = index.payload.bytes + segments.payload.bytes
    if size >= full:
        report(f"delta from {old.version}: would be larger than the full payload, left out")
        return None
    report(f"delta from {old.version}: {size} bytes, {100 * size / full:.2f} % of the full payload")
    delta = Delta(
        from_version=old.version,
        from_root_hash=old.root_hash,
        from_uki_sha256=old.uki_sha256,
        index=index.payload,
        segments=segments.payload,
    )
    return MadeDelta(delta=delta, index=index.path, segments=segments.path)


def _known(repository: Path, old: Release, new: Release) -> MadeDelta | None:
    """Return a delta that a channel of the repository has, with its files."""
    try:
        store = Store.open(repository)
    except NoRepositoryError:
        return None
    for channel in store.channels:
        for delta in store.deltas(Named(channel=channel, name=new.name, version=new.version)):
            paths = [repository / payload.path for payload in (delta.index, delta.segments)]
            same = (delta.from_root_hash, delta.from_uki_sha256) == (old.root_hash, old.uki_sha256)
            if same and all(path.is_file() for path in paths):
                return MadeDelta(delta=delta, index=paths[0], segments=paths[1])
    return None
