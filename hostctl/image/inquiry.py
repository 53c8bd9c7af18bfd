"""Questions to a registry that skopeo has no word for: JSON over HTTP, with the credentials and certificates of a pull.

Bounded as downloads of updates are (:mod:`hostctl.repository.transport`): in time, size and destination. A proxy is not
used, as a pull uses none. Formats: distribution-spec v1.1; distribution, token.md ("Requesting a Token"); RFC 7617.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode, urlsplit

from hostctl.config.references import DOCKER_HUB
from hostctl.image.refusal import (
    TOKEN_BYTES,
    NotThereError,
    PullError,
    RateLimitError,
    UnauthorizedError,
    UntrustedError,
    describe_limits,
)
from hostctl.image.registry import Access
from hostctl.repository.errors import RepositoryUnavailableError, StatusError, TlsError
from hostctl.repository.patience import Limits, Meter
from hostctl.repository.transport import Transport

ANSWER_BYTES = 4 << 20  # of one answer, as of a manifest
SECONDS = 60.0  # for all questions to one place
HUB_API = "registry-1.docker.io"
_UNAUTHORIZED = (401, 403)
_ABSENT = (404, 405)
_TOO_MANY = 429


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a registry, or a mirror of one, answers: host[:port], and whether its certificate is not looked at."""

    host: str
    insecure: bool = False
    ca: str = ""
    credential: str = field(default="", repr=False)
    """The base64 of ``user:password``; empty asks as nobody."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The beginnings of its URLs, in the order in which they are tried; plain HTTP only where that is declared."""
        host = HUB_API if self.host == DOCKER_HUB else self.host
        return (f"https://{host}", f"http://{host}") if self.insecure else (f"https://{host}",)


def place(host: str, access: Access, *, insecure: bool) -> Place:
    """Return how a host is asked that belongs to what ``access`` says."""
    return Place(host=host, insecure=insecure, ca=access.ca, credential=access.credentials.get(host, ""))


def _context(where: Place) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if where.ca:
        context.load_verify_locations(cadata=where.ca)
    if where.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def challenge(text: str) -> tuple[str, Mapping[str, str]]:
    """Return scheme, in small letters, and parameters of a ``WWW-Authenticate`` header."""
    scheme, _, rest = text.partition(" ")
    return scheme.lower(), dict(re.findall(r'(\w+)="([^"]*)"', rest))


class Inquiry:
    """Asks one place, and answers its challenges. ``seconds`` bound all questions together."""

    def __init__(self, where: Place, *, seconds: float = SECONDS) -> None:
        self._where = where
        limits = Limits(patience=min(seconds, Limits().patience))
        self._transport = Transport(limits, tls=_context(where))
        # A redirect is followed by questions without credentials only: they are nobody else's.
        self._unled = Transport(replace(limits, redirects=0), tls=_context(where))
        self._meter = Meter(limits, deadline=seconds)
        self._authorization = ""

    def get(self, url: str) -> tuple[object, Mapping[str, str]]:
        """Return the JSON document and the headers that ``url`` answers.

        Raises:
            PullError: one of its kinds; nothing usable was answered.
        """
        try:
            return self._get(url)
        except StatusError as error:
            raise _refused(self._where.host, error) from error
        except TlsError as error:
            hint = "`ca` of the registry in host.yaml takes a private certificate authority"
            raise UntrustedError(
                f"the certificate of {self._where.host} is not trusted", details=error.details or error.brief, hint=hint
            ) from error
        except RepositoryUnavailableError as error:
            details = "\n".join(filter(None, (error.brief, error.details)))
            hint = "check the name, the network and `mirrors`"
            raise PullError(f"{self._where.host} gives no usable answer", details=details, hint=hint) from error

    def _get(self, url: str) -> tuple[object, Mapping[str, str]]:
        try:
            return self._ask(url, self._authorization)
        except StatusError as error:
            scheme, fields = challenge(error.headers.get("WWW-Authenticate", ""))
            if error.status not in _UNAUTHORIZED or self._authorization:
                raise
            if scheme == "basic" and self._where.credential:
                self._authorization = f"Basic {self._where.credential}"
            elif scheme == "bearer" and (token := self._token(url, fields)):
                self._authorization = f"Bearer {token}"
            else:
                raise
        return self._ask(url, self._authorization)

    def _token(self, url: str, fields: Mapping[str, str]) -> str:
        """Return a token as a challenge asks for it; nothing if it may not be asked for there."""
        realm = fields.get("realm", "")
        parts, asked = urlsplit(realm), urlsplit(url)
        beside = self._where.insecure and (parts.scheme, parts.netloc) == (asked.scheme, asked.netloc)
        if parts.scheme != "https" and not beside:  # a password goes over plain HTTP only where that is declared
            return ""
        query = urlencode({name: value for name, value in fields.items() if name in ("service", "scope")})
        basic = f"Basic {self._where.credential}" if self._where.credential else ""
        document, _ = self._ask(f"{realm}{'&' if parts.query else '?'}{query}", basic, most=TOKEN_BYTES)
        found = document if isinstance(document, dict) else {}
        token = found.get("token") or found.get("access_token")
        return token if isinstance(token, str) and token.isascii() and token.isprintable() else ""

    def _ask(self, url: str, authorization: str, *, most: int = ANSWER_BYTES) -> tuple[object, Mapping[str, str]]:
        headers = {"Accept": "application/json", **({"Authorization": authorization} if authorization else {})}
        transport = self._unled if authorization else self._transport
        exchange = transport.open(url, self._meter, headers)
        data = b"".join(exchange.chunks(most))
        try:
            return json.loads(data), exchange.headers
        except (ValueError, RecursionError) as error:
            raise PullError(f"{self._where.host} answers with something else than JSON", details=repr(error)) from error


def _refused(host: str, error: StatusError) -> PullError:
    if error.status in _UNAUTHORIZED:
        hint = f"`hostctl login {host}` stores credentials; some registries show this to administrators only"
        return UnauthorizedError(f"{host} does not let this host look", details=error.brief, hint=hint)
    if error.status in _ABSENT:
        hint = "not every registry can be searched; `hostctl pull` takes a name that you know"
        return NotThereError(f"{host} has nothing to be searched", details=error.brief, hint=hint)
    if error.status == _TOO_MANY:
        return RateLimitError(
            f"{host} refuses: too many requests", details=describe_limits(error.headers), hint="try again later"
        )
    return PullError(f"{host} gives no usable answer", details=error.brief, hint="try again later")


def inquiries(where: Place) -> Iterator[tuple[str, Inquiry]]:
    """Yield the beginnings of a place's URLs, each with what asks there."""
    for address in where.addresses:
        yield address, Inquiry(where)
