"""Where a redirect may lead. Pure: no name is resolved here, ``transport.py`` asks again with what it resolves to."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

from hostctl.repository.errors import RedirectError

# Metadata services of clouds that are not link-local: Alibaba, Azure's wire server, AWS over IPv6.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))


def follow(here: str, location: str) -> str:
    """Return where a redirect leads.

    Raises:
        RedirectError: it must not be followed.
    """
    try:
        target = urljoin(here, location)
        parts, before = urlsplit(target), urlsplit(here)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise RedirectError(f"{here} redirects to nonsense", details=str(error)) from error
    if not location or parts.scheme not in ("http", "https") or not host:
        raise RedirectError(f"{here} redirects to something that is no web address", details=target[:200])
    if before.scheme == "https" and parts.scheme != "https":
        raise RedirectError(f"{here} redirects away from TLS", details=target[:200])
    if host != before.hostname and forbidden(host):
        raise RedirectError(f"{here} redirects to {host}, where no repository is")
    return target


def forbidden(host: str) -> bool:
    """Tell whether an address is one that a redirect has no business with; names are not resolved here.

    Those of the machine itself, link-local ones, multicast, and the metadata services of clouds, however written.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:  # 2852039166, 0xa9fea9fe and 169.254.43518 are addresses, too
            address = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, ValueError):
            return host == "localhost" or host.endswith(".localhost")
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    return (
        address.is_link_local
        or address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
    )
