"""What can go wrong between a host and a repository: one class, and one stable id, a kind of failure.

Two families. :class:`RepositoryUnavailableError`: nothing usable arrived; another time or another mirror may do better.
:class:`RepositoryUntrustedError`: what arrived breaks a rule of TUF. Neither ever touches the running release.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostctl.errors import EXIT_UNAVAILABLE, HostctlError


class RepositoryUnavailableError(HostctlError):
    """Nothing usable arrived from the repository.

    Args:
        brief, details, hint: see :class:`HostctlError`.
        again: asking the same address again may help.
        wait: seconds that the server asks to wait before that.
    """

    id = "repository-unavailable"
    exit_code = EXIT_UNAVAILABLE

    def __init__(
        self, brief: str, *, details: str = "", hint: str = "", again: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(brief, details=details, hint=hint or "check the network, update.repository and update.mirrors")
        self.again = again
        self.wait = wait


class UnreachableError(RepositoryUnavailableError):
    """The name is unknown, nobody listens, the connection was refused or reset, or the proxy said no."""

    id = "repository-unreachable"


class TlsError(RepositoryUnavailableError):
    """The server's certificate does not hold, or it does not speak TLS."""

    id = "repository-tls"


class StatusError(RepositoryUnavailableError):
    """The server answered with an HTTP status that is no success; ``headers`` are the answer's."""

    id = "repository-status"

    def __init__(
        self,
        brief: str,
        status: int,
        *,
        again: bool = False,
        wait: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(brief, again=again, wait=wait)
        self.status = status
        self.headers: Mapping[str, str] = headers or {}


class SlowError(RepositoryUnavailableError):
    """Bytes came too slowly for too long, or not at all."""

    id = "repository-slow"


class RedirectError(RepositoryUnavailableError):
    """A redirect that is not followed: in a circle, to another protocol, or to an address nobody has business with."""

    id = "repository-redirect"


class ProtocolError(RepositoryUnavailableError):
    """The answer is no HTTP, or its headers have no end."""

    id = "repository-protocol"


class EncodingError(RepositoryUnavailableError):
    """The server coded (compressed) a body although it was asked not to; sizes and hashes are those of plain files."""

    id = "repository-encoding"


class TooLongError(RepositoryUnavailableError):
    """The server sends, or announces, more than the file may have."""

    id = "repository-too-long"


class TruncatedError(RepositoryUnavailableError):
    """The body ended early."""

    id = "repository-truncated"


class WrongRangeError(RepositoryUnavailableError):
    """The server answered a request for a part by another part, or not at all (416)."""

    id = "repository-range"


class ChangedError(RepositoryUnavailableError):
    """The file is another one than a moment ago, or has another size than was signed."""

    id = "repository-changed"


class PortalError(RepositoryUnavailableError):
    """A web page came in place of the file, as from the login page of a network."""

    id = "repository-portal"


class RepositoryUntrustedError(HostctlError):
    """What the repository says is not signed by keys that this host trusts, or is malformed."""

    id = "repository-untrusted"


class RepositoryExpiredError(RepositoryUntrustedError):
    """Metadata have expired: nobody renews them, somebody holds back newer ones, or the clock is wrong."""

    id = "repository-expired"


class RepositoryRollbackError(RepositoryUntrustedError):
    """Metadata are older than what this host has seen before."""

    id = "repository-rollback"


class PayloadError(HostctlError):
    """A file is not what the signed description says."""

    id = "payload-mismatch"
