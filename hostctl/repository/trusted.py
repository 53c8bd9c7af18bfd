"""The rules of TUF, by python-tuf's client, over one address of a repository.

Works with python-tuf 7, which is given the root it trusts, and with 5.1, which trusts what lies in its folder: there
the root that this module has verified is put first, each time. Either way trust starts from the root that was handed
in, and goes on over the roots that came since, each signed by the one before it; they are kept, so that an address
cannot hide them again. The specification: https://theupdateframework.github.io/specification/latest/ .
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
)
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.repository.errors import (
    RepositoryExpiredError,
    RepositoryRollbackError,
    RepositoryUnavailableError,
    RepositoryUntrustedError,
    StatusError,
)
from hostctl.repository.fetch import Fetcher
from hostctl.repository.metadata import MetadataError, load, load_next_root, load_verified

HISTORY = "root_history"
_ROOT_NAME = re.compile(r"[0-9]{1,9}\.root\.json")
# Since version 6 the root is an argument, and a role is verified for each delegator that leads to it.
_TAKES_ROOT = "bootstrap" in inspect.signature(Updater.__init__).parameters

Signed = TypeVar("Signed", Root, Timestamp, Snapshot, Targets)


class _Once(FetcherInterface):
    """Asks for each file once, so that all lookups see the same repository; keeps the roots that came."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._meter = fetcher.meter(fetcher.limits.metadata)
        self._known: dict[str, bytes | StatusError] = {}
        self.roots: dict[str, bytes] = {}

    def download_bytes(self, url: str, max_length: int) -> bytes:
        found = self._known.get(url)
        if found is None:
            try:
                found = self._fetcher.whole(url, max_length, self._meter)
            except StatusError as error:
                if error.status not in (403, 404):
                    raise
                found = error
            self._known[url] = found
        if isinstance(found, StatusError):
            # Of these python-tuf makes the end of the row of roots.
            raise DownloadHTTPError(found.brief, found.status) from found
        name = url.rpartition("/")[2]
        if _ROOT_NAME.fullmatch(name):
            self.roots[name] = found
        return found

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise DownloadError(f"{url} is no metadata")


class Trusted:
    """What one address of a repository says, once it is verified.

    Args:
        metadata: base URL of the metadata.
        root: root metadata that are trusted.
        folder: metadata as they were last seen, which is read and written; nothing in it is trusted.
        fetcher: downloads.
    """

    def __init__(self, *, metadata: str, root: bytes, folder: Path, fetcher: Fetcher) -> None:
        self._metadata = metadata
        self._root = root
        self._folder = folder
        self._once = _Once(fetcher)
        self._updater = self._make()

    def _make(self) -> Updater:
        root = newest_root(self._root, self._folder / HISTORY)
        arguments: dict[str, Any] = {}
        with guarded(self._metadata):
            if _TAKES_ROOT:
                arguments["bootstrap"] = root
            else:
                write_file(self._folder / "root.json", root)
            return Updater(str(self._folder), self._metadata, fetcher=self._once, **arguments)

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date.

        Raises:
            RepositoryUnavailableError, RepositoryUntrustedError: see :func:`guarded`.
        """
        with guarded(self._metadata):
            try:
                self._updater.refresh()
            finally:
                self._keep_roots()

    def _keep_roots(self) -> None:
        history = self._folder / HISTORY
        history.mkdir(exist_ok=True)
        for name, data in self._once.roots.items():
            write_file(history / name, data)

    def find(self, targets: Sequence[str]) -> tuple[TargetFile | None, ...]:
        """Return what is signed of targets; none for one that no role in charge of it lists.

        Those of one call should lie below the same delegation: python-tuf 5 does not ask again by whose word it came
        to know a role, so each call starts anew there.

        Raises:
            RepositoryUnavailableError, RepositoryUntrustedError: see :func:`guarded`.
        """
        with guarded(self._metadata):
            updater = self._updater
            if not _TAKES_ROOT:
                updater = self._make()
                updater.refresh()
            return tuple(updater.get_targetinfo(target) for target in targets)

    def has(self, name: str) -> bool:
        """Tell whether a delegated role was loaded."""
        return (self._folder / f"{name}.json").is_file()

    @property
    def consistent(self) -> bool:
        """Tell whether names of files carry their version or hash (TUF 1.0, 6.2)."""
        return bool(self.role(Root.type, Root).consistent_snapshot)

    def role(self, name: str, kind: type[Signed]) -> Signed:
        """Return a role's metadata after they were verified."""
        with guarded(self._metadata):
            metadata: Metadata[Any] = Metadata.from_bytes((self._folder / f"{name}.json").read_bytes())
            if not isinstance(metadata.signed, kind):
                raise TufError(f"{name} is of another kind")
            return metadata.signed


def newest_root(trusted: bytes, history: Path) -> bytes:
    """Return the newest of the roots that are linked to a trusted one by signatures (TUF 1.0, 5.3).

    Args:
        trusted: root metadata to start from.
        history: folder with files ``VERSION.root.json``, in which nothing is trusted.

    Raises:
        MetadataError: what is trusted is no root.
    """
    with guarded("the root that came with the release"):
        root = load_verified(trusted, Root, load(trusted, Root).signed).signed
    newest = trusted
    while True:
        try:
            data = (history / f"{root.version + 1}.root.json").read_bytes()
            root = load_next_root(data, root).signed
        except (OSError, MetadataError):
            return newest
        newest = data


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn python-tuf's errors into ours.

    Raises:
        RepositoryUnavailableError: nothing usable arrived, or metadata cannot be kept.
        RepositoryExpiredError: metadata have expired.
        RepositoryRollbackError: metadata are older than known ones.
        RepositoryUntrustedError: metadata break another rule.
    """
    try:
        yield
    except HostctlError:
        raise
    except DownloadError as error:
        if isinstance(error.__cause__, HostctlError):
            raise error.__cause__ from None
        raise RepositoryUnavailableError(f"{what} cannot be read", details=str(error)) from error
    except ExpiredMetadataError as error:
        raise RepositoryExpiredError(
            f"{what}: metadata have expired",
            details=str(error),
            hint="check the clock; else the publisher must renew them",
        ) from error
    except BadVersionNumberError as error:
        raise RepositoryRollbackError(
            f"{what}: metadata are older than those seen before",
            details=str(error),
            hint="the running release is untouched; a mirror may lag behind, or somebody may replay old files",
        ) from error
    except (TufError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RepositoryUntrustedError(
            f"{what} is not to be trusted",
            details=str(error)[:500],
            hint="the running release is untouched; check which keys the repository is signed with",
        ) from error
    except OSError as error:
        raise RepositoryUnavailableError(
            "metadata cannot be kept while they are checked", details=str(error), hint="see whether /tmp is full"
        ) from error
