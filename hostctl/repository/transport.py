"""One HTTP exchange at a time over urllib3, bounded in time, size and destination.

Time: waiting uses up patience, bytes bring it back (``patience.py``), so that a stall, a trickle of headers and one
byte a second all end in the same way, wherever in an answer they are. Size: headers and bodies have caps that count
what comes off the socket. Destination: redirects are few, never leave HTTP(S), and are not followed to addresses that
belong to the machine or to a cloud's metadata service, however they are written or resolved. No retries here.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from hostctl.repository.errors import (
    EncodingError,
    ProtocolError,
    RedirectError,
    SlowError,
    StatusError,
    TlsError,
    TooLongError,
    TruncatedError,
    UnreachableError,
)
from hostctl.repository.patience import Limits, Meter
from hostctl.repository.redirects import follow, forbidden

CHUNK = 1 << 16
HEADER_BYTES = 1 << 16
MAX_ADDRESSES = 6
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)  # worth another try at the same address
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, which Python's ssl does not name


class _Watch:
    """What bounds the exchange at hand; connections outlive exchanges, so they share one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.meter = Meter(limits)
        self.room = HEADER_BYTES
        self.guarded = False
        self.headers_done = False

    def take(self, count: int) -> None:
        """Note bytes off the socket."""
        self.meter.earn(count)
        self.room -= count
        if self.room < 0:
            if self.headers_done:
                raise TooLongError("the repository sends more than the file may have")
            raise ProtocolError("the repository sends headers without end")


class _Socket(io.RawIOBase):
    """The receiving side of a socket, bounded by a watch."""

    def __init__(self, sock: socket.socket, watch: _Watch) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - what io.RawIOBase says
        self._sock.settimeout(min(self._watch.meter.require(), self._watch.limits.silence))
        with self._watch.meter.waiting():
            count = self._file.readinto(buffer)
        self._watch.take(count or 0)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose bytes come through :class:`_Socket`, headers included: http.client has no deadline of its own."""

    def __init__(self, sock: socket.socket, *args: Any, watch: _Watch, **options: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Socket(sock, watch), CHUNK)


def _connect(host: str, port: int, watch: _Watch) -> socket.socket:
    limits, problem = watch.limits, "it has no address"
    try:
        with watch.meter.waiting():
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"the name {host} cannot be resolved", details=str(error), again=True) from error
    for family, kind, protocol, _, address in found[:MAX_ADDRESSES]:
        if watch.guarded and forbidden(str(address[0])):
            raise RedirectError(f"a redirect leads to {address[0]}, where no repository is", details=f"named {host}")
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(limits.connect, watch.meter.require()))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with watch.meter.waiting():
                sock.connect(address)
        except OSError as error:
            sock.close()
            problem = f"{address[0]}: {error}"
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise UnreachableError(f"{host} port {port} cannot be reached", details=problem, again=True)


class _PlainConnection(HTTPConnection):
    def __init__(self, *args: Any, watch: _Watch, **options: Any) -> None:  # noqa: ANN401 - urllib3's own
        super().__init__(*args, **options)
        self._watch = watch
        self.response_class = partial(_Response, watch=watch)  # type: ignore[assignment]  # it is only called

    def _new_conn(self) -> socket.socket:
        return _connect(self.host, self.port, self._watch)


class _TlsConnection(HTTPSConnection):
    def __init__(self, *args: Any, watch: _Watch, **options: Any) -> None:  # noqa: ANN401 - urllib3's own
        super().__init__(*args, **options)
        self._watch = watch
        self.response_class = partial(_Response, watch=watch)  # type: ignore[assignment]  # it is only called

    def _new_conn(self) -> socket.socket:
        return _connect(self.host, self.port, self._watch)


def _pools(watch: _Watch) -> dict[str, Any]:
    class Plain(urllib3.HTTPConnectionPool):
        ConnectionCls = staticmethod(partial(_PlainConnection, watch=watch))  # type: ignore[assignment]

    class Tls(urllib3.HTTPSConnectionPool):
        ConnectionCls = staticmethod(partial(_TlsConnection, watch=watch))  # type: ignore[assignment]

    return {"http": Plain, "https": Tls}


class Exchange:
    """An answer whose headers have arrived. Its body is read by :meth:`chunks`, once."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str, watch: _Watch) -> None:
        self._response = response
        self._watch = watch
        self.url = url
        """Where it came from, after redirects."""
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def length(self) -> int | None:
        """Return the announced size of the body; none if none is."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def page(self) -> bool:
        """Tell whether it says to be a web page."""
        return self.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))

    def measure(self, meter: Meter) -> None:
        """Let another meter count from now on."""
        self._watch.meter = meter

    def chunks(self, most: int) -> Iterator[bytes]:
        """Yield the body as it comes.

        Args:
            most: bytes that it may have.

        Raises:
            TooLongError: it has more; at most one chunk more was read.
            TruncatedError: it ended early, or the connection broke.
            SlowError: it comes too slowly.
        """
        total = 0
        self._watch.headers_done = True
        # Framing of tiny chunks costs up to six bytes for one.
        self._watch.room = 8 * most + HEADER_BYTES
        try:
            while chunk := self._response.read1(CHUNK, decode_content=False):
                total += len(chunk)
                self._require(total, most)
                yield chunk
        except TimeoutError as error:
            raise _silent(self.url) from error
        except urllib3.exceptions.TimeoutError as error:
            raise _silent(self.url) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise TruncatedError(f"{self.url} broke off after {total} bytes", details=str(error), again=True) from error
        except BaseException:
            self.close()
            raise
        self._response.release_conn()

    def _require(self, total: int, most: int) -> None:
        if total > most:
            raise TooLongError(f"the repository sends more than the {most} bytes that {self.url} may have")

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()
        self._response.release_conn()


class Transport:
    """Makes requests, one after the other; not for several threads.

    Args:
        limits: see there.
        proxy: URL of an HTTP proxy for all requests; the environment is not looked at.
        tls: other than the system's trust, for tests.
        dates: judge the dates of certificates. Without a usable clock that is not possible.
    """

    def __init__(
        self, limits: Limits, *, proxy: str | None = None, tls: ssl.SSLContext | None = None, dates: bool = True
    ) -> None:
        self.limits = limits
        self._watch = _Watch(limits)
        self._proxied = proxy is not None
        context = tls or ssl.create_default_context()
        if not dates:
            context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        options: dict[str, Any] = {"ssl_context": context, "maxsize": 1, "block": False}
        self._manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(2, **options)
        self._manager.pool_classes_by_scheme = _pools(self._watch)

    def open(self, url: str, meter: Meter, headers: Mapping[str, str] | None = None) -> Exchange:
        """Ask for ``url`` and follow redirects.

        Returns:
            The answer, which is one of the statuses 200, 206 and 416, and whose body is not coded.

        Raises:
            RepositoryUnavailableError: one of its kinds.
        """
        asked = {"Accept-Encoding": "identity", "User-Agent": "hostctl", **(headers or {})}
        here = url
        for _ in range(self.limits.redirects + 1):
            exchange = self._ask(here, meter, asked, guarded=urlsplit(here).hostname != urlsplit(url).hostname)
            if exchange.status not in REDIRECTS:
                return _usable(exchange)
            exchange.close()
            here = follow(here, exchange.headers.get("Location", ""))
        raise RedirectError(f"{url} redirects in a circle, or too often", details=f"last to {here}")

    def _ask(self, url: str, meter: Meter, headers: Mapping[str, str], *, guarded: bool) -> Exchange:
        watch = self._watch
        # A proxy resolves names itself, and where it stands was decided by whoever configured it.
        watch.meter, watch.room, watch.guarded = meter, HEADER_BYTES, guarded and not self._proxied
        watch.headers_done = False
        wait = min(self.limits.connect, meter.require())
        try:
            response = self._manager.urlopen(
                "GET",
                url,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                headers=headers,
                timeout=urllib3.Timeout(connect=wait, read=self.limits.silence),
            )
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _problem(url, error) from error
        return Exchange(response, url, watch)


def _silent(url: str) -> SlowError:
    return SlowError(f"{url} fell silent", again=True)


def _problem(url: str, error: Exception) -> Exception:
    """Return our error for what urllib3 says when there was no answer."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or next((a for a in chain[-1].args if isinstance(a, Exception)), None)) and (
        inner not in chain
    ):
        chain.append(inner)
    details = str(chain[-1]) or repr(chain[-1])
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return TlsError(f"the certificate of {url} does not hold", details=details, hint="check the clock, too")
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return TlsError(f"no TLS with {url}", details=details, again=True)
    if any(isinstance(one, TimeoutError | urllib3.exceptions.TimeoutError) for one in chain):
        return _silent(url)
    # RemoteDisconnected is a BadStatusLine as well, so the broken connection comes first.
    if isinstance(error, urllib3.exceptions.ProxyError) or any(isinstance(one, OSError) for one in chain):
        return UnreachableError(f"no answer from {url}", details=details, again=True)
    return ProtocolError(f"{url} is not answered in HTTP", details=details, again=True)


def _usable(exchange: Exchange) -> Exchange:
    status = exchange.status
    if status not in (200, 206, 416):
        exchange.close()
        wait = _seconds(exchange.headers.get("Retry-After", ""))
        busy = status in BUSY
        brief = f"{exchange.url}: HTTP status {status}"
        raise StatusError(brief, status, again=busy, wait=wait if busy else None, headers=exchange.headers)
    coding = exchange.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        exchange.close()
        raise EncodingError(f"{exchange.url} comes coded as {coding[:20]}, which was not asked for")
    return exchange


def _seconds(text: str) -> float | None:
    """Return what a Retry-After header asks for (RFC 9110, 10.2.3): seconds or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
