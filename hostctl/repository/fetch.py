"""Downloads: retries, mirrors, parts of files. Built on one exchange at a time, see ``transport.py``.

Metadata are small and come whole: :meth:`Fetcher.download_bytes`, which python-tuf calls. Payloads are named by their
content, so parts of them may come from any address and at any time: :meth:`Fetcher.ranges` resumes where an answer
broke off and goes on to the next mirror; what it yields is checked by whoever knows the hash. No mirror is trusted more
than another, and nothing is kept in memory but the chunk at hand.
"""

from __future__ import annotations

import hashlib
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from hostctl.repository.errors import (
    ChangedError,
    PayloadError,
    PortalError,
    RepositoryUnavailableError,
    StatusError,
    TooLongError,
    TruncatedError,
    WrongRangeError,
)
from hostctl.repository.patience import Limits, Meter
from hostctl.repository.transport import Exchange, Transport

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_PORTAL_HINT = "log in to the network, or ask who runs the server why it sends pages in place of files"


class _Body:
    """The bytes of a file from one place on, read in order. Those of a server that ignores Range are kept for later."""

    def __init__(self, exchange: Exchange, url: str, first: int, stop: int) -> None:
        self.url = url
        self.position = first
        self._stop = stop
        self._exchange = exchange
        self._chunks = exchange.chunks(stop - first)
        self._rest = b""

    def part(self, start: int, end: int, meter: Meter) -> Iterator[bytes]:
        """Yield what lies between ``start`` and ``end``; what comes before is passed over."""
        self._exchange.measure(meter)
        while self.position < min(end, self._stop):
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                raise TruncatedError(f"{self.url} broke off at byte {self.position}", again=True)
            passed = max(0, min(len(chunk), start - self.position))
            wanted = max(passed, min(len(chunk), end - self.position))
            self._rest = chunk[wanted:]
            self.position += wanted
            if wanted > passed:
                yield chunk[passed:wanted]

    def reaches(self, url: str, start: int) -> bool:
        """Tell whether reading on comes to a place of a file."""
        return self.url == url and self.position <= start < self._stop

    @property
    def spent(self) -> bool:
        """Tell whether nothing is left."""
        return self.position >= self._stop

    def close(self) -> None:
        """Give the connection back, or up if an answer is still on its way."""
        if self.spent and self._exchange.length is not None:
            next(self._chunks, None)
        else:
            self._exchange.close()


class Fetcher(FetcherInterface):
    """Downloads for one host, one after the other; not for several threads.

    Args:
        limits: how patient it is.
        proxy: URL of an HTTP proxy; none connects directly, whatever the environment says.
        dates: judge the dates of certificates, which a host without a usable clock cannot.
        tls: other than the system's trust.
        pause: waits for so many seconds.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        proxy: str | None = None,
        dates: bool = True,
        tls: ssl.SSLContext | None = None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self._transport = Transport(self.limits, proxy=proxy, tls=tls, dates=dates)
        self._pause = pause
        self._clock = clock
        self._kept: _Body | None = None
        self._first = 0

    def meter(self, deadline: float | None = None) -> Meter:
        """Return a new meter: the patience for one download, or for several that share it."""
        return Meter(self.limits, deadline=deadline, clock=self._clock)

    def whole(self, url: str, most: int, meter: Meter) -> bytes:
        """Return a small file whose content is not known yet.

        Raises:
            RepositoryUnavailableError: one of its kinds.
        """
        attempt = 0
        while True:
            try:
                return self._document(url, most, meter)
            except RepositoryUnavailableError as error:
                attempt += 1
                self._wait(error, attempt, meter)

    def _document(self, url: str, most: int, meter: Meter) -> bytes:
        self._drop()
        exchange = self._transport.open(url, meter)
        _require_whole(exchange)
        if exchange.length is not None and exchange.length > most:
            exchange.close()
            raise TooLongError(f"{url} has {exchange.length} bytes, and may have {most}")
        data = b"".join(exchange.chunks(most))
        # No file of a repository starts like that; JSON and what is named by its content is judged elsewhere.
        if exchange.page and data.lstrip()[:1] == b"<":
            raise PortalError(f"a web page came in place of {url}", hint=_PORTAL_HINT)
        return data

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file for python-tuf, which takes 403 and 404 for the end of a row of roots.

        Raises:
            DownloadHTTPError: the server says no; the cause is our own error.
            RepositoryUnavailableError: any other of its kinds.
        """
        try:
            return self.whole(url, max_length, self.meter(self.limits.metadata))
        except StatusError as error:
            raise DownloadHTTPError(error.brief, error.status) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Yield a file for python-tuf, which counts the bytes; one attempt, as it may not be asked to start again."""
        self._drop()
        exchange = self._transport.open(url, self.meter())
        _require_whole(exchange)
        return exchange.chunks(1 << 40)

    def small(self, urls: Sequence[str], total: int, sha256: str) -> bytes:
        """Return a file named by its content.

        Args:
            urls: its addresses, best first.
            total: its size; all of it is held in memory.
            sha256: of its content.

        Raises:
            PayloadError: no address has it as it should be.
            RepositoryUnavailableError: no address answers well.
        """
        found = b""
        for _ in urls:
            found = b"".join(self.ranges(urls, total, 0, total))
            if hashlib.sha256(found).hexdigest() == sha256:
                return found
            self.turn_away()
        if found.lstrip()[:1] == b"<":
            raise PortalError(f"a web page came in place of {urls[0]}", hint=_PORTAL_HINT)
        raise PayloadError(
            f"{urls[0]} is not the file that was signed", details=f"sha256 {hashlib.sha256(found).hexdigest()}"
        )

    def turn_away(self) -> None:
        """Ask the next address first from now on, because what the present one sent was wrong."""
        self._drop()
        self._first += 1

    def ranges(self, urls: Sequence[str], total: int, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes [start, end) of a file; how they are cut into chunks says nothing.

        Args:
            urls: addresses of the same file, best first. The one that answered well last time is asked first.
            total: size of the whole file.
            start: first byte.
            end: the byte after the last.

        Raises:
            RepositoryUnavailableError: no address answers well.
        """
        if not urls or not 0 <= start <= end <= total:
            raise ValueError(f"no part of {total} bytes: {start} to {end}")
        position, failed = start, list[RepositoryUnavailableError]()
        while position < end:
            here = (self._first + len(failed)) % len(urls)
            try:
                for chunk in self._part(urls[here], total, position, end):
                    position += len(chunk)
                    yield chunk
                self._first = here
            except RepositoryUnavailableError as error:
                failed.append(error)
                if len(failed) >= len(urls):
                    raise _together(failed) from error

    def _part(self, url: str, total: int, start: int, end: int) -> Iterator[bytes]:
        meter, attempt, position = self.meter(), 0, start
        while position < end:
            try:
                for chunk in self._once(url, total, position, end, meter):
                    position += len(chunk)
                    attempt = 0
                    yield chunk
            except RepositoryUnavailableError as error:
                self._drop()
                attempt += 1
                self._wait(error, attempt, meter)

    def _once(self, url: str, total: int, start: int, end: int, meter: Meter) -> Iterator[bytes]:
        body = self._kept
        if body is None or not body.reaches(url, start):
            self._drop()
            asked = {} if (start, end) == (0, total) else {"Range": f"bytes={start}-{end - 1}"}
            body = self._kept = _body(self._transport.open(url, meter, asked), url, total, start, end)
        yield from body.part(start, end, meter)
        if body.spent:
            self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _wait(self, error: RepositoryUnavailableError, attempt: int, meter: Meter) -> None:
        """Wait before the next attempt, by chance (full jitter), so that hosts do not come back all at once.

        Raises:
            RepositoryUnavailableError: the error itself, if there is to be no next attempt.
        """
        limits = self.limits
        most = min(limits.longest_pause, limits.backoff * 2 ** (attempt - 1))
        seconds = max(random.uniform(0, most), min(error.wait or 0.0, limits.longest_pause))  # noqa: S311 - no secret
        if not error.again or attempt >= limits.attempts or seconds >= meter.left:
            raise error
        with meter.waiting():
            self._pause(seconds)


def _require_whole(exchange: Exchange) -> None:
    if exchange.status != 200:
        exchange.close()
        raise WrongRangeError(f"{exchange.url}: HTTP status {exchange.status} for a whole file")


def _body(exchange: Exchange, url: str, total: int, start: int, end: int) -> _Body:
    """Check what a server says it sends, and return it as what it is: the part, or the whole file."""
    try:
        if exchange.status == 200:
            if exchange.length not in (None, total):
                if exchange.page:
                    raise PortalError(f"a web page came in place of {url}", hint=_PORTAL_HINT)
                raise ChangedError(f"{url} has {exchange.length} bytes instead of {total}")
            return _Body(exchange, url, 0, total)
        if exchange.status == 416:
            raise WrongRangeError(f"{url} has no bytes {start} to {end} (HTTP status 416)")
        text = exchange.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if found is None or int(found[1]) != start or not start <= int(found[2]) < end:
            raise WrongRangeError(f"{url}: asked for bytes {start} to {end - 1}, got {text[:60]!r}")
        stop = int(found[2]) + 1
        if found[3] not in ("*", str(total)):
            raise ChangedError(f"{url} has {found[3]} bytes instead of {total}")
        if exchange.length not in (None, stop - start):
            raise WrongRangeError(f"{url}: {text} with {exchange.length} bytes")
        return _Body(exchange, url, start, stop)
    except RepositoryUnavailableError:
        exchange.close()
        raise


def _together(failed: Sequence[RepositoryUnavailableError]) -> RepositoryUnavailableError:
    """Return the first address's error, with what the others said."""
    first = failed[0]
    first.details = "\n".join([first.details, *(error.brief for error in failed[1:])]).strip()
    return first
