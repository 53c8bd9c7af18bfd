"""Value types of how a workload runs: restarts, sockets, capabilities, devices; see :mod:`.schedule` as well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, cast

from hostctl.config.addresses import IpAddress
from hostctl.config.names import CAPABILITIES, Capability
from hostctl.config.text import Text, quoted


class RestartPolicy(Text):
    """When a workload is started again after its end: no, on-failure, on-failure:LIMIT, always, unless-stopped.

    It is tried again after 500ms, then later and later, up to 30s. A limit counts restarts within ten minutes, or a
    minute for each if that is more: after so many it stays down until somebody starts it. Of a job with a schedule only
    runs in a row that failed count, and its schedule starts it again once they are so long ago. unless-stopped is
    always: what was stopped by hand stays down in any case, until somebody starts it, it is declared in another way, or
    the host boots.
    """

    __slots__ = ()
    PATTERN: ClassVar[str] = r"no|always|unless-stopped|on-failure(:[1-9][0-9]{0,2})?"
    EXPECTED: ClassVar[str] = "no, on-failure, on-failure:5, always or unless-stopped"
    EXAMPLE: ClassVar[str] = "on-failure:5"

    @property
    def when(self) -> str:
        """What systemd's Restart= is: no, on-failure or always."""
        return "always" if self == "unless-stopped" else self.partition(":")[0]

    @property
    def limit(self) -> int | None:
        """How often it is tried again, if that is bounded."""
        limit = self.partition(":")[2]
        return int(limit) if limit else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenAddress:
    """A socket of the host that systemd opens for a workload: [ADDRESS:]PORT[/tcp|/udp], IPv6 addresses in brackets."""

    address: str | None = None
    port: int
    protocol: Literal["tcp", "udp"] = "tcp"

    PATTERN: ClassVar[str] = r"((\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?[0-9]{1,5}(/(tcp|udp))?"
    EXPECTED: ClassVar[str] = "a port to listen on, as in 8080, 127.0.0.1:8080, [::1]:8080 or 53/udp"
    EXAMPLE: ClassVar[str] = "8080"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the socket that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        where, _, protocol = text.partition("/")
        address, _, port = where.rpartition(":")
        if not 1 <= int(port) <= 65535:
            raise ValueError(f"{quoted(port)} is not a port from 1 to 65535")
        return cls(
            address=str(IpAddress(address.strip("[]"))) if address else None,
            port=int(port),
            protocol=cast(Literal["tcp", "udp"], protocol or "tcp"),
        )

    @property
    def stream(self) -> str:
        """What systemd.socket(5) listens on; without an address it is every one, of IPv4 and IPv6."""
        if self.address is None:
            return str(self.port)
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def __str__(self) -> str:
        """Return the canonical text; tcp is left out."""
        return f"{self.stream}{'' if self.protocol == 'tcp' else '/udp'}"


class DroppedCapability(Text):
    """A Linux capability, as in CAP_NET_RAW, or ALL."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z_]{1,40}"
    EXPECTED: ClassVar[str] = "a capability, as in CAP_CHOWN, or ALL"
    EXAMPLE: ClassVar[str] = "CAP_CHOWN"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the upper-case name with its prefix, or ALL."""
        return "ALL" if text.upper() == "ALL" else str(Capability(text))

    @property
    def names(self) -> frozenset[str]:
        """The capabilities that it stands for."""
        return frozenset(CAPABILITIES) if self == "ALL" else frozenset((str(self),))


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMount:
    """A device of the host: NODE[:NODE IN THE CONTAINER][:r|w|rw]; rw by default.

    Only devices by which the host cannot be changed: no disks, no memory, no consoles, no TPM, no watchdog. A serial
    port may be named by its link below /dev/serial/by-id, which is followed at each start.
    """

    source: str
    target: str
    access: Literal["r", "w", "rw"] = "rw"

    KINDS: ClassVar[tuple[str, ...]] = (
        r"accel/accel[0-9]+",
        r"bus/usb/[0-9]{3}/[0-9]{3}",
        r"dri/(card|renderD)[0-9]+",
        r"fuse",
        r"gpiochip[0-9]+",
        r"hidraw[0-9]+",
        r"hwrng",
        r"i2c-[0-9]+",
        r"input/event[0-9]+",
        r"kfd",
        r"kvm",
        r"net/tun",
        r"ppp",
        r"rtc[0-9]+",
        r"serial/by-id/[A-Za-z0-9_.:-]+",
        r"snd/[A-Za-z0-9]+",
        r"spidev[0-9.]+",
        r"tty(ACM|AMA|S|USB)[0-9]+",
        r"vhost-(net|vsock)",
        r"video[0-9]+",
    )
    """Below /dev."""
    PATTERN: ClassVar[str] = r"/dev/[A-Za-z0-9_./:-]+"
    EXPECTED: ClassVar[str] = "a device, as in /dev/kvm, /dev/ttyUSB0:/dev/modem or /dev/hwrng:r"
    EXAMPLE: ClassVar[str] = "/dev/kvm"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the device that ``text`` writes, or raise ValueError."""
        found = re.fullmatch(r"(/dev/.*?)(?::(/dev/[A-Za-z0-9_./-]+))?(?::(r|w|rw))?", text)
        if re.fullmatch(cls.PATTERN, text) is None or found is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        source, target = found.group(1), found.group(2) or found.group(1)
        if not any(re.fullmatch(kind, source.removeprefix("/dev/")) for kind in cls.KINDS):
            raise ValueError(f"{quoted(source)} is none of the devices that a workload may have")
        if any(part in ("", ".", "..") for part in target.split("/")[1:]) or target.split("/")[2] in _OWN:
            raise ValueError(f"{quoted(target)} cannot be a device's place in a container")
        access = cast(Literal["r", "w", "rw"], found.group(3) or "rw")
        return cls(source=source, target=target, access=access)

    @property
    def is_link(self) -> bool:
        """Whether it is a link that udev makes, to a node whose name is another each time."""
        return self.source.startswith("/dev/serial/by-id/")

    def __str__(self) -> str:
        """Return the canonical text."""
        target = "" if self.target == self.source else f":{self.target}"
        return f"{self.source}{target}{'' if self.access == 'rw' else f':{self.access}'}"


_OWN = frozenset(
    (
        *("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue"),
        *("init", "notify", "fd", "stdin", "stdout", "stderr", "core"),
    )
)
"""What every container has below /dev."""
