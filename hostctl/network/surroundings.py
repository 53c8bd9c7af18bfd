"""What the host itself is in: the networks that it has routes to, which none of ours may overlap.

Formats: ``/proc/net/route`` and ``/proc/net/ipv6_route``, proc_pid_net(5) and the kernel's net/ipv4/fib_trie.c and
net/ipv6/route.c.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from hostctl.network.work import is_own_name

LINES = 10_000  # a router with all of the Internet's routes is no host of ours


def routes(root: Path) -> Mapping[str, IPv4Network | IPv6Network]:
    """Return where the host's routes lead that are neither default routes nor ours, by a word that tells which it is.

    Args:
        root: the host's root folder.
    """
    leading: Iterable[tuple[str, IPv4Network | IPv6Network]] = itertools.chain(
        _ipv4(root / "proc/net/route"), _ipv6(root / "proc/net/ipv6_route")
    )
    found: dict[str, IPv4Network | IPv6Network] = {}
    for link, network in leading:
        local = link == "lo" or network.is_link_local or network.is_multicast
        if network.prefixlen and not local and not is_own_name(link):
            found[f"{link} ({network})"] = network
    return found


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open() as file:
            return [line.split() for _, line in zip(range(LINES), file, strict=False)]
    except FileNotFoundError:  # a kernel without this protocol
        return []


def _ipv4(path: Path) -> Iterator[tuple[str, IPv4Network]]:
    """Yield links and networks: name, destination and mask are the columns 1, 2 and 8, in the machine's byte order."""
    for columns in _lines(path)[1:]:
        destination, mask = (IPv4Address(bytes.fromhex(columns[at])[::-1]) for at in (1, 7))
        yield columns[0], IPv4Network(f"{destination}/{mask}", strict=False)


def _ipv6(path: Path) -> Iterator[tuple[str, IPv6Network]]:
    """Yield links and networks: destination and prefix length, in hexadecimal, are columns 1 and 2, the name is 10."""
    for columns in _lines(path):
        destination = IPv6Address(bytes.fromhex(columns[0]))
        yield columns[9], IPv6Network((destination, int(columns[1], 16)), strict=False)
