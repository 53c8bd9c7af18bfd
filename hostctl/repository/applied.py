"""Applies the payloads of a repository as hosts do: do they make the releases that were signed?

Hashes of stored bytes and of segments say that a payload is what its publisher made. This says that it is of use: the
root has the release's root hash, the boot image its hash, and a delta makes the very same of the release before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.durable import sha256_file
from hostctl.errors import HostctlError
from hostctl.payload.delta import prove
from hostctl.payload.pack import Files
from hostctl.repository.publish import scratch
from hostctl.repository.release import Delta, Release
from hostctl.repository.root_hash import root_hash
from hostctl.repository.unpack import read_index, unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What a payload that was applied is, and what is wrong with what it made (empty if nothing is)."""

    index: str
    """Path of its index below the repository."""
    problem: str = ""
    tried: bool = True
    """Whether it could be applied at all."""


def apply_all(repository: Path, releases: Sequence[Release], deltas: Sequence[tuple[Release, Delta]]) -> Iterator[Made]:
    """Apply every payload once, and yield what came of it.

    It takes a few seconds a payload, and room for two releases in ``$TMPDIR``, else in /var/tmp.

    Args:
        repository: the folder.
        releases: those that are in it; one that several channels have counts once.
        deltas: each with the release that it makes.
    """
    whole = {release.root_hash: release for release in releases}
    for release in whole.values():
        with scratch() as place:
            made, problem = _full(repository, release, place / "new")
            yield Made(index=release.index.path, problem=problem)
            if made is None:
                continue
            mine = {delta.index.path: delta for target, delta in deltas if target.root_hash == release.root_hash}
            for path, delta in mine.items():
                old = whole.get(delta.from_root_hash)
                if old is None:
                    text = f"starts from {delta.from_version}, which is not here: it was not applied"
                    yield Made(index=path, problem=text, tried=False)
                else:
                    yield Made(index=path, problem=_delta(repository, old, made, delta, place / old.root_hash))


def _full(repository: Path, release: Release, folder: Path) -> tuple[Files | None, str]:
    """Return what the full payload makes, none if it is not the release, and why."""
    folder.mkdir()
    try:
        files = unpack(repository / release.index.path, repository / release.segments.path, release, folder)
        found = root_hash(files.root, bytes.fromhex(release.salt)), sha256_file(files.uki)
    except (HostctlError, OSError) as error:
        return None, _text(error)
    wanted = release.root_hash, release.uki_sha256
    wrong = [name for name, have, want in zip(("root", "boot image"), found, wanted, strict=True) if have != want]
    return (files, "") if not wrong else (None, f"makes another {' and '.join(wrong)} than {release.title} has")


def _delta(repository: Path, old: Release, new: Files, delta: Delta, folder: Path) -> str:
    """Return what is wrong with what a delta makes."""
    start, problem = _full(repository, old, folder)
    if start is None:
        return f"was not applied, as {old.title} cannot be made: {problem}"
    try:
        index = read_index(repository / delta.index.path)
        prove(index, start, new, repository / delta.segments.path, folder)
    except (HostctlError, OSError) as error:
        return _text(error)
    finally:
        for path in (start.root, start.uki):
            path.unlink()
        folder.rmdir()
    return ""


def _text(error: Exception) -> str:
    return f"{error.brief}: {error.details}".rstrip(": ") if isinstance(error, HostctlError) else str(error)
