"""What a registry's refusal means: skopeo's words, and the rate limit's headers, as an error with a next step.

skopeo tells statuses in prose; the words here are those of containers/image (docker/errors.go) and of distribution's
error codes (spec.md, "Error Codes"). A rate limit's headers are in no message, so one request of ours reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from hostctl.config.values import ImageReference
from hostctl.errors import EXIT_UNAVAILABLE, HostctlError
from hostctl.image.registry import Access
from hostctl.run import CommandError, CommandTimeoutError

if TYPE_CHECKING:
    import urllib3

ASK_SECONDS = 15.0
TOKEN_BYTES = 64 << 10
TOO_MANY = 429


class PullError(HostctlError):
    """The registry could not give the image."""

    id = "image-pull"
    exit_code = EXIT_UNAVAILABLE


class UnauthorizedError(PullError):
    """The registry wants other credentials than it got."""

    id = "registry-unauthorized"


class NotThereError(PullError):
    """The registry has no such image."""

    id = "image-not-found"


class RateLimitError(PullError):
    """The registry gives no more for a while."""

    id = "registry-rate-limit"


class UntrustedError(PullError):
    """The registry's certificate is not trusted."""

    id = "registry-untrusted"


class UnsignedError(PullError):
    """The image is not signed by the key that its registry's policy names."""

    id = "image-unsigned"


def message(error: CommandError) -> str:
    """Return what skopeo said last, without its log's frame."""
    lines = [line for line in (error.details or error.brief).splitlines() if line]
    found = re.search(r'level=fatal msg="((?:[^"\\]|\\.)*)"', lines[-1]) if lines else None
    return found[1].replace('\\"', '"') if found else "\n".join(lines[1:] or lines)


_KINDS: tuple[tuple[str, type[PullError], str, str], ...] = (
    (
        r"toomanyrequests|too many request|\b429\b|rate limit",
        RateLimitError,
        "refused: too many requests",
        "try again later",
    ),
    (
        r"[Ss]ignature|A signature was required|cryptographic|sigstore",
        UnsignedError,
        "refused: it has no valid signature by the key of `registries` in host.yaml",
        "sign it with `cosign sign --recursive`, or check the key",
    ),
    (
        r"x509:|certificate|tls:",
        UntrustedError,
        "not possible: the registry's certificate is not trusted",
        "`ca` of the registry in host.yaml takes a private certificate authority",
    ),
    (
        r"manifest unknown|name unknown|not found|NAME_UNKNOWN|MANIFEST_UNKNOWN|StatusCode: 404|404 \(Not Found\)",
        NotThereError,
        "not possible: the registry has no such image",
        "check name and tag; some registries say so of images that you may not see, too",
    ),
    (
        r"unauthorized|authentication required|denied|\b401\b|\b403\b|invalid username/password|Forbidden",
        UnauthorizedError,
        "refused: the registry does not let this host",
        "`hostctl login {registry}` stores credentials; a wrong name is refused like this as well",
    ),
    (
        r"no such host|connection refused|not permitted|no route|unreachable|i/o timeout|server misbehaving|EOF"
        r"|reset by peer",
        PullError,
        "not possible: the registry cannot be reached",
        "check the name, the network and `mirrors`",
    ),
)


def refusal(what: str, registry: str, error: CommandError, limits: str = "") -> PullError:
    """Return the error for what skopeo could not do.

    Args:
        what: the subject of the sentence.
        registry: host[:port].
        error: of skopeo.
        limits: what the registry said of its rate limit, if it was asked.
    """
    if limits:
        return RateLimitError(f"{what} was refused: too many requests", details=limits, hint=_later(limits, registry))
    said = message(error)
    for pattern, kind, brief, hint in _KINDS:
        if re.search(pattern, said):
            return kind(f"{what} is {brief}", details=said, hint=hint.format(registry=registry))
    return PullError(f"{what} is not possible", details=said)


def _later(limits: str, registry: str) -> str:
    wait = re.search(r"retry-after: (\d+)", limits)
    when = f"try again in {wait[1]} s" if wait else "try again later"
    return f"{when}; `hostctl login {registry}` often raises the limit, and `mirrors` spare it"


def describe_limits(headers: Mapping[str, str]) -> str:
    """Return the headers of a response that speak of a rate limit, a line each.

    Names are those of RFC 9110 (Retry-After) and of Docker Hub (``ratelimit-limit: 100;w=21600``: 100 in 21600 s).
    """
    wanted = ("retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "docker-ratelimit-source")
    lower = {name.lower(): value for name, value in headers.items()}
    return "\n".join(f"{name}: {lower[name][:200]}" for name in wanted if name in lower)


def ask_limits(reference: ImageReference, access: Access, error: CommandError) -> str:
    """Ask a registry once, after a failure, whether it limits this host; return its headers, or nothing.

    Only a failure that may be one of a rate limit is worth it: skopeo waits long on those, until its time is over.
    """
    if not isinstance(error, CommandTimeoutError) and not re.search(_KINDS[0][0], message(error)):
        return ""
    host = "registry-1.docker.io" if reference.registry == "docker.io" else reference.registry
    scheme = "http" if access.insecure else "https"
    tag = reference.digest or reference.tag or "latest"
    url = f"{scheme}://{host}/v2/{reference.repository}/manifests/{tag}"
    import urllib3  # noqa: PLC0415 - the agent's start-up counts, and refusals are rare

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(ASK_SECONDS), retries=False)
    try:
        answer = pool.request("HEAD", url, redirect=False)
        if answer.status == 401:
            token = _token(pool, answer.headers.get("WWW-Authenticate", ""), access.credentials.get(reference.registry))
            answer = pool.request("HEAD", url, redirect=False, headers={"Authorization": f"Bearer {token}"})
    except (urllib3.exceptions.HTTPError, ValueError, KeyError):
        return ""
    return f"status: 429\n{describe_limits(answer.headers)}" if answer.status == TOO_MANY else ""


def _token(pool: urllib3.PoolManager, challenge: str, credential: str | None) -> str:
    """Return a token as a challenge asks for it (distribution, token.md)."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm")
    if urlsplit(realm).scheme != "https":
        raise ValueError("a token is asked for over https only")
    headers = {"Authorization": f"Basic {credential}"} if credential else {}
    url = f"{realm}?{urlencode(fields)}"
    answer = pool.request("GET", url, redirect=False, headers=headers, preload_content=False)
    document = json.loads(answer.read(TOKEN_BYTES))
    return str(document.get("token") or document["access_token"])
