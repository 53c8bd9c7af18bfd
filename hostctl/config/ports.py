"""Which ports of the host workloads take, published and as sockets, and that no two take the same."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hostctl.config.names import Name

if TYPE_CHECKING:
    from hostctl.config.workload import Workload


def conflicts(workloads: Mapping[Name, Workload]) -> Iterator[str]:
    """Yield each port, range or socket that overlaps one before it, at the same address or at all of them."""
    taken: dict[tuple[str, int], _Taken] = {}

    def holder_of(address: str | None, protocol: str, ports: range, name: str) -> str | None:
        families = (4, 6) if address is None else (6,) if ":" in address else (4,)
        holders = [taken.setdefault((protocol, each), _Taken()).add(address, ports, name) for each in families]
        return next((holder for holder in holders if holder is not None), None)

    for name, workload in workloads.items():
        for index, port in enumerate(workload.ports):
            first, last = port.host_port, port.host_port + port.count - 1
            holder = holder_of(port.address, port.protocol, range(first, last + 1), str(name))
            if holder is not None:
                what = f"port {first}" if first == last else f"ports {first}-{last}"
                said = f"host {what}/{port.protocol} is already published by {holder!r}"
                yield f"workloads.{name}.ports[{index}]: {said}"
        for index, socket in enumerate(workload.sockets):
            holder = holder_of(socket.address, socket.protocol, range(socket.port, socket.port + 1), str(name))
            if holder is not None:
                yield f"workloads.{name}.sockets[{index}]: {socket.port}/{socket.protocol} is already {holder!r}'s"


class _Taken:
    """Which ports are held, of one protocol and family: disjoint sorted ranges at each address, and at any address.

    Sets of ports are numbers with a bit a port, so that a hostile declaration costs no more than it is long.
    """

    def __init__(self) -> None:
        self.ranges: dict[str | None, list[tuple[int, int, str]]] = {}
        self.anywhere = 0
        self.names: dict[int, str] = {}

    def add(self, address: str | None, ports: range, name: str) -> str | None:
        """Take ports, or return who holds a part of them."""
        first, last = ports[0], ports[-1]
        wildcard = address in (None, "0.0.0.0", "::")  # noqa: S104 - means all
        at = None if wildcard else address
        bits = ((1 << len(ports)) - 1) << first
        common = self.anywhere & bits
        if common and wildcard:
            return self.names[(common & -common).bit_length() - 1]
        for key in (at, None):
            holder = self._holder(self.ranges.get(key, []), first, last)
            if holder is not None:
                return holder
        bisect.insort(self.ranges.setdefault(at, []), (first, last, name))
        if common != bits:
            self.names |= {each: name for each in ports if not common >> each & 1}
        self.anywhere |= bits
        return None

    @staticmethod
    def _holder(ranges: list[tuple[int, int, str]], first: int, last: int) -> str | None:
        at = bisect.bisect_right(ranges, (last, 65536, ""))
        return ranges[at - 1][2] if at and ranges[at - 1][1] >= first else None
