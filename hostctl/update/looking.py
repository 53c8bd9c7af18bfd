"""Looks at the repository, also when the state partition cannot be written.

What the metadata said last is kept in the state folder, so that nobody can show this host older ones. On a full disk
the look works on a copy of that, in memory: it knows all that was kept, and what it learns is kept by the next look
that finds room.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository.client import RepositoryClient, Source
from hostctl.update.host import UpdateHost
from hostctl.update.steps import Steps

PROBE_BYTES = 256 << 10  # more than the metadata of a repository have
FOLDER = "tuf"


class NoRoomError(HostctlError):
    """There is no room for what the repository says."""

    id = "no-room"


def look(host: UpdateHost, source: Source, steps: Steps) -> RepositoryClient:
    """Return a client with fresh metadata.

    Raises:
        NoRoomError: it cannot be kept, and not be copied either.
        RepositoryUnavailableError, RepositoryUntrustedError: see the client.
    """
    copy = host.runtime / FOLDER
    shutil.rmtree(copy, ignore_errors=True)  # of a former look; one that is used outlives this function
    wrong = _cannot_write(source.cache)
    if not wrong:
        return RepositoryClient(source)
    steps.warn(f"what the repository says cannot be kept: {wrong}")
    try:
        if source.cache.is_dir():
            shutil.copytree(source.cache, copy)
    except OSError as error:
        raise NoRoomError(
            f"neither {source.cache} nor {copy} can be written",
            details=f"{wrong}\n{error}",
            hint="without what was kept, older metadata could not be told from new ones; free some space",
        ) from error
    return RepositoryClient(replace(source, cache=copy))


def _cannot_write(cache: Path) -> str:
    """Return why the folder cannot take metadata, or nothing."""
    probe = cache / ".probe"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        try:
            write_file(probe, bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""
