"""Publishes a built release: checked, with its deltas, in one change of the repository.

Deltas are made before anything is signed, so hosts see a release together with the shortest ways to it. What takes long
needs no lock; the last step, which holds it, copies files and signs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hostctl.repository.build import read_build
from hostctl.repository.keyring import Keyring
from hostctl.repository.offers import Published, add
from hostctl.repository.terms import Terms


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
    now: datetime | None = None,
) -> Published:
    """Add a build to a channel of a repository, which is made if it does not exist.

    Args:
        folder: what ``hostctl build`` wrote.
        repository: the folder that is served over HTTP.
        keyring: what signs.
        channel: where to; none is the one that it was built for.
        wanted: on which terms it is offered; what is not said stays as it is.
        now: the time from which lives count; none is the present.

    Raises:
        BuildError: the build is not whole.
        PublishedError: the version is there with other content.
        NoChannelError, MissingKeyError, RepositoryBusyError, MetadataError: see :func:`hostctl.repository.offers.add`.
    """
    with scratch() as place:
        build = read_build(folder, place)
        return add(build, repository, keyring, channel=channel, wanted=wanted, now=now)
