"""Reads a repository over HTTP: what is new by the rules of TUF, and payloads as checked streams.

Trust starts at the root that came with the verified root file system, on every run: the cache in the state folder
only spares downloads and remembers version numbers, python-tuf checks its signatures again. Whatever the network
sends is bounded in size and time. Nothing here writes a slot.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import TypeVar

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.ngclient import FetcherInterface, Updater

from hostctl.config.versions import compare
from hostctl.durable import write_file
from hostctl.errors import EXIT_UNAVAILABLE, HostctlError
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

Result = TypeVar("Result")

CHUNK = 1 << 16
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
RETRIES = 3
GRACE_SECONDS = 20.0
MIN_BYTES_PER_SECOND = 2048.0


class RepositoryUnavailableError(HostctlError):
    """The repository does not answer, or too slowly."""

    id = "repository-unavailable"
    exit_code = EXIT_UNAVAILABLE


class RepositoryUntrustedError(HostctlError):
    """What the repository says is not signed by keys this host trusts, has expired or goes back in time."""

    id = "repository-untrusted"


class PayloadError(HostctlError):
    """A payload is not what the signed description says."""

    id = "payload-mismatch"


class Fetcher(FetcherInterface):
    """HTTP downloads for python-tuf, with time limits, a minimum rate and a few retries."""

    def __init__(self, *, grace: float = GRACE_SECONDS, rate: float = MIN_BYTES_PER_SECOND) -> None:
        self._grace = grace
        self._rate = rate
        retries = urllib3.Retry(
            RETRIES, redirect=3, backoff_factor=0.3, status_forcelist=(502, 503, 504), raise_on_status=False
        )
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=retries
        )

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._chunks(self._get(url, {}, 200), url)

    def ranged(self, url: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of ``url`` from ``start`` up to, without, ``end``; of a server without Range, too."""
        response = self._get(url, {"Range": f"bytes={start}-{end - 1}"}, 206, 200)
        skipped = 0 if response.status == 206 else start
        left = end - start
        for chunk in self._chunks(response, url):
            kept = chunk[skipped:]
            skipped -= len(chunk) - len(kept)
            yield kept[:left]
            left -= len(kept[:left])
            if not left:
                return

    def _get(self, url: str, headers: dict[str, str], *statuses: int) -> urllib3.BaseHTTPResponse:
        # No content coding: sizes and hashes are those of the bytes as they are stored.
        plain = {"Accept-Encoding": "identity", **headers}
        response = self._pool.request("GET", url, preload_content=False, headers=plain)
        if response.status not in statuses:
            response.close()
            raise DownloadHTTPError(f"{url}: HTTP status {response.status}", response.status)
        return response

    def _chunks(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        # Only reading is timed: a slow disk is not the server's fault. read1, as read would wait for a whole chunk.
        total, spent = 0, 0.0
        try:
            while True:
                started = time.monotonic()
                chunk = response.read1(CHUNK, decode_content=False)
                spent += time.monotonic() - started
                if not chunk:
                    return
                total += len(chunk)
                if spent > self._grace and total / spent < self._rate:
                    raise SlowRetrievalError(f"{url}: only {total} bytes in {spent:.0f} s")
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"{url}: {error}") from error
        finally:
            response.close()


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
    """Folder for metadata; nothing in it is trusted."""


class RepositoryClient:
    """One look at a repository: metadata are refreshed when it is made."""

    def __init__(self, source: Source, fetcher: Fetcher | None = None) -> None:
        """Refresh the metadata.

        Raises:
            RepositoryUnavailableError: it cannot be reached.
            RepositoryUntrustedError: it breaks a rule of TUF.
        """
        self._source = source
        self._fetcher = fetcher or Fetcher()
        self._targets = f"{source.url.rstrip('/')}/targets/"
        self._updater = _guarded(source.url, self._refresh)

    def _refresh(self) -> Updater:
        cache = self._source.cache
        cache.mkdir(parents=True, exist_ok=True)
        make: Callable[..., Updater] = Updater
        arguments: dict[str, bytes] = {}
        if "bootstrap" in inspect.signature(Updater.__init__).parameters:
            arguments["bootstrap"] = self._source.root
        else:
            # python-tuf 5 trusts the root in its folder, so ours replaces it each time.
            write_file(cache / "root.json", self._source.root)
        updater = make(str(cache), f"{self._source.url.rstrip('/')}/metadata/", fetcher=self._fetcher, **arguments)
        updater.refresh()
        return updater

    def _small(self, target: str) -> bytes | None:
        info = self._updater.get_targetinfo(target)
        if info is None:
            return None
        if info.length > MAX_DESCRIPTION:
            raise DescriptionError(f"{target} is too long")
        url = f"{self._targets}{_hashed(target, info.hashes['sha256'])}"
        data = self._fetcher.download_bytes(url, info.length)
        info.verify_length_and_hashes(data)
        return data

    def offers(self) -> tuple[Offer, ...]:
        """Return what the channel offers, newest first.

        Raises:
            DescriptionError: the list names a release that is not offered, or an offer is malformed.
        """
        source = self._source
        data = _guarded(source.url, lambda: self._small(versions_target(source.name, source.channel)))
        versions = () if data is None else decode_versions(data)
        return tuple(self._offer(version) for version in sorted(versions, key=cmp_to_key(compare), reverse=True))

    def _offer(self, version: str) -> Offer:
        source = self._source
        target = release_target(source.name, source.channel, version)
        info = _guarded(source.url, lambda: self._updater.get_targetinfo(target))
        if info is None:
            raise DescriptionError(f"the repository lists release {version}, but does not describe it")
        offer = decode_offer(info.custom)
        if (offer.name, offer.version) != (source.name, version):
            raise DescriptionError(f"{target} offers {offer.name} {offer.version}")
        return offer

    def release(self, version: str) -> Release:
        """Return the description of a release in the channel.

        Raises:
            DescriptionError: it is missing, malformed or of something else.
        """
        source = self._source
        target = release_target(source.name, source.channel, version)
        data = _guarded(source.url, lambda: self._small(target))
        if data is None:
            raise DescriptionError(f"the repository lists release {version}, but does not describe it")
        release = decode_release(data)
        if (release.name, release.version) != (source.name, version):
            raise DescriptionError(f"{target} describes {release.title}")
        return release

    def deltas(self, version: str) -> tuple[Delta, ...]:
        """Return the deltas to a release in the channel.

        Raises:
            DescriptionError: their list is malformed.
        """
        source = self._source
        data = _guarded(source.url, lambda: self._small(deltas_target(source.name, source.channel, version)))
        return () if data is None else decode_deltas(data)

    def small(self, payload: Payload) -> bytes:
        """Return a payload that fits into memory, checked.

        Raises:
            PayloadError: it is longer, shorter or other than described.
            RepositoryUnavailableError: the download broke off.
        """
        data = b""
        for chunk in self._guarded_chunks(lambda: self._fetcher.fetch(self._url(payload))):
            data += chunk
            if len(data) > payload.bytes:
                raise PayloadError(f"{payload.path} is longer than its {payload.bytes} bytes")
        if len(data) != payload.bytes:
            raise PayloadError(f"{payload.path} has {len(data)} bytes instead of {payload.bytes}")
        if hashlib.sha256(data).hexdigest() != payload.sha256:
            raise PayloadError(f"{payload.path} is not the file that was signed")
        return data

    def ranges(self, payload: Payload, start: int, end: int) -> Iterator[bytes]:
        """Yield bytes of a payload from ``start`` up to, without, ``end``; nothing is checked but their number.

        Raises:
            RepositoryUnavailableError: the download broke off.
        """
        return self._guarded_chunks(lambda: self._fetcher.ranged(self._url(payload), start, end))

    def _url(self, payload: Payload) -> str:
        return f"{self._source.url.rstrip('/')}/{payload.path}"

    def _guarded_chunks(self, begin: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        chunks = _guarded(self._source.url, begin)
        while (chunk := _guarded(self._source.url, lambda: next(chunks, None))) is not None:
            yield chunk


def _guarded(url: str, action: Callable[[], Result]) -> Result:
    """Turn python-tuf's errors into ours."""
    try:
        return action()
    except (DownloadError, OSError) as error:
        if isinstance(error, DownloadLengthMismatchError):
            raise RepositoryUntrustedError(
                f"the repository {url} sends more than it may", details=str(error)
            ) from error
        raise RepositoryUnavailableError(
            f"the repository {url} cannot be read", details=str(error), hint="check the network and update.repository"
        ) from error
    except (TufError, ValueError, KeyError, RecursionError) as error:
        raise RepositoryUntrustedError(
            f"the repository {url} is not to be trusted",
            details=str(error),
            hint="the running release is untouched; check the clock, and which keys the repository is signed with",
        ) from error


def _hashed(target: str, sha256: str) -> str:
    parent, _, name = target.rpartition("/")
    return f"{parent}/{sha256}.{name}"
