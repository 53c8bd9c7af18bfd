"""Value types of addresses: of interfaces, of what is listened on, and of what is asked."""

from __future__ import annotations

import ipaddress
import re
from typing import ClassVar
from urllib.parse import urlsplit

from hostctl.config.text import Text, quoted


def port_number(text: str, what: str = "port") -> int:
    """Return the port that ``text`` is.

    Raises:
        ValueError: it is none; ``what`` says which one was meant.
    """
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 1 <= int(text) <= 65535:
        raise ValueError(f"{quoted(text)} is not a {what} from 1 to 65535")
    return int(text)


class IpAddress(Text):
    """An IPv4 or IPv6 address."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9A-Fa-f:.]{2,45}"
    EXPECTED: ClassVar[str] = "an IP address, as in 192.0.2.1 or 2001:db8::1"
    EXAMPLE: ClassVar[str] = "192.0.2.1"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the shortest form."""
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}") from None


class BindAddress(Text):
    """An address of this machine with a TCP port, as in 127.0.0.1:9600 or [::]:9600."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"([0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}"
    EXPECTED: ClassVar[str] = "an IP address and a port, as in 127.0.0.1:9600 or [::]:9600"
    EXAMPLE: ClassVar[str] = "127.0.0.1:9600"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the shortest form."""
        host, _, port = text.rpartition(":")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}") from None
        if (address.version == 6) != host.startswith("["):
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        return f"[{address}]:{port_number(port)}" if address.version == 6 else f"{address}:{port_number(port)}"


class InterfaceAddress(Text):
    """An address of an interface with its prefix length, as in 192.0.2.10/24."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}"
    EXPECTED: ClassVar[str] = "an address with prefix length, as in 192.0.2.10/24"
    EXAMPLE: ClassVar[str] = "192.0.2.10/24"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the shortest form; refuse the address of an IPv4 network itself and its broadcast address."""
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}") from None
        network = interface.network
        if interface.version == 4 and network.prefixlen < 31:
            if interface.ip == network.network_address:
                raise ValueError(f"{quoted(text)} is the network itself, not an address in it")
            if interface.ip == network.broadcast_address:
                raise ValueError(f"{quoted(text)} is the broadcast address of its network")
        return str(interface)


class TcpAddress(Text):
    """A host's name or address, in brackets if it is of IPv6, and a TCP port."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"(\[[0-9A-Fa-f:.]{2,45}\]|[!-9;-~]{1,253}):[0-9]{1,5}"
    EXPECTED: ClassVar[str] = "host:port"
    EXAMPLE: ClassVar[str] = "localhost:5432"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse a port that there is not."""
        port_number(text.rpartition(":")[2])
        return text


class InterfaceMatch(Text):
    """A network interface's name, with * and ? for any letters (systemd.network Name=)."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z0-9*?_.-]{1,15}"
    EXPECTED: ClassVar[str] = "an interface name of up to 15 characters, as in en*"
    EXAMPLE: ClassVar[str] = "en*"


class HttpUrl(Text):
    """An http:// or https:// address without user name and fragment."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"https?://[!-~]+"
    EXPECTED: ClassVar[str] = "an http:// or https:// address"
    EXAMPLE: ClassVar[str] = "https://updates.example/"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse what no client of ours sends: users, fragments, a missing host, a wrong port."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}: {error}") from None
        if not host or port == 0 or parts.netloc.endswith(":"):
            raise ValueError(f"{quoted(text)} has no valid host and port")
        if "@" in parts.netloc:
            raise ValueError("an address with a user name or password would end up in logs; leave it out")
        if parts.fragment or text.endswith("#"):
            raise ValueError(f"{quoted(text)} has a fragment (#), which is never sent")
        return text

    @property
    def host(self) -> str:
        """The host, without brackets."""
        return urlsplit(self).hostname or ""

    @property
    def port(self) -> int:
        """The port, with the scheme's own by default."""
        parts = urlsplit(self)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def path(self) -> str:
        """Path and query, as the request line has them."""
        parts = urlsplit(self)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
