"""Value types of what a workload is given and limited to: resource limits, signals, processors, mounts in memory."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import ClassVar, Self

from hostctl.config.names import plain_target
from hostctl.config.quantities import ByteSize, FileMode
from hostctl.config.text import Text, quoted

ULIMITS = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
"""getrlimit(2), in small letters and without RLIMIT_, as Compose names them."""
_LARGEST = (1 << 63) - 1


class UlimitName(Text):
    """A resource limit of processes, as in nofile: getrlimit(2) in small letters, without RLIMIT_."""

    __slots__ = ()
    PATTERN: ClassVar[str] = "|".join(ULIMITS)
    EXPECTED: ClassVar[str] = f"a resource limit: {', '.join(ULIMITS)} are"
    EXAMPLE: ClassVar[str] = "nofile"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ulimit:
    """A resource limit: BOTH, or SOFT:HARD. A number in the unit of getrlimit(2), or unlimited, which is None here."""

    soft: int | None
    hard: int | None

    PATTERN: ClassVar[str] = r"([0-9]{1,19}|unlimited)(:([0-9]{1,19}|unlimited))?"
    EXPECTED: ClassVar[str] = "a limit, as in 1024, 1024:4096 or unlimited"
    EXAMPLE: ClassVar[str] = "1024:4096"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the limit that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        numbers = [None if word == "unlimited" else int(word) for word in text.split(":")]
        soft, hard = numbers[0], numbers[-1]
        if any(number is not None and number > _LARGEST for number in numbers):
            raise ValueError(f"{quoted(text)} is out of range")
        if hard is not None and (soft is None or soft > hard):
            raise ValueError(f"{quoted(text)}: the soft limit is above the hard one")
        return cls(soft=soft, hard=hard)

    def __str__(self) -> str:
        """Return the canonical text."""
        soft, hard = ("unlimited" if number is None else str(number) for number in (self.soft, self.hard))
        return soft if soft == hard else f"{soft}:{hard}"


class Signal(Text):
    """A signal by name, as in SIGTERM or SIGRTMIN+3; see signal(7)."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"(SIG)?([A-Z][A-Z0-9]{1,8}|RTMIN\+[0-9]{1,2}|RTMAX-[0-9]{1,2})"
    EXPECTED: ClassVar[str] = "the name of a signal, as in SIGTERM"
    EXAMPLE: ClassVar[str] = "SIGTERM"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the name with its prefix; refuse what Linux does not know."""
        name = f"SIG{text.removeprefix('SIG')}"
        number = re.fullmatch(r"SIGRTM(?:IN\+|AX-)([0-9]{1,2})", name)
        if number is not None and int(number.group(1)) <= signal.SIGRTMAX - signal.SIGRTMIN:
            return name
        if name not in signal.Signals.__members__:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        return name


class CpuSet(Text):
    """Processors by number, as in 0-3,5."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,63}"
    EXPECTED: ClassVar[str] = "numbers of processors, as in 0-3,5"
    EXAMPLE: ClassVar[str] = "0-3,5"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse ranges that end before they begin."""
        for part in text.split(","):
            first, _, last = part.partition("-")
            if last and int(last) < int(first):
                raise ValueError(f"{quoted(part)} ends before it begins")
        return text


class DevicePath(Text):
    """A disk of the host, by its device node, as in /dev/vda."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"/dev(/[A-Za-z0-9_:.@=+-]+){1,4}"
    EXPECTED: ClassVar[str] = "the device node of a disk, as in /dev/vda"
    EXAMPLE: ClassVar[str] = "/dev/vda"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse paths that lead elsewhere."""
        if any(part in (".", "..") for part in text.split("/")):
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        return text


class NamespacedSysctl(Text):
    """A kernel setting that is a container's own: of its network, or of its System V and POSIX queues."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"(net|kernel|fs)(\.[A-Za-z0-9_:-]+){1,6}"
    EXPECTED: ClassVar[str] = "a setting of a network or IPC namespace, as in net.ipv4.ip_unprivileged_port_start"
    EXAMPLE: ClassVar[str] = "net.core.somaxconn"

    IPC: ClassVar[tuple[str, ...]] = (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    )
    """ipc_namespaces(7)."""

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse settings that are the whole machine's."""
        if text in cls.IPC or text.startswith(("net.", "fs.mqueue.")):
            return text
        raise ValueError(
            f"{quoted(text)} is the whole machine's; those of one workload are {', '.join(cls.IPC)}, "
            "and those below fs.mqueue and net"
        )

    @property
    def of_network(self) -> bool:
        """Whether it belongs to the network namespace."""
        return self.startswith("net.")


class ContainerPath(Text):
    """An absolute path inside a container."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"/.{0,1023}"
    EXPECTED: ClassVar[str] = "an absolute path in the container"
    EXAMPLE: ClassVar[str] = "/srv"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse what leads into /proc, where files of the host could be named, and unusual spellings."""
        parts = text.strip("/").split("/") if text != "/" else []
        if any(part in ("", ".", "..") for part in parts) or not text.isprintable():
            raise ValueError(f"{quoted(text)} is not a plain path")
        if parts[:1] == ["proc"]:
            raise ValueError("a path below /proc is not possible here")
        return "/" + "/".join(parts)


class MountTarget(Text):
    """Where something is mounted in a container: an absolute path that is not in /proc, /sys or /dev."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"/[^:]{1,1023}"
    EXPECTED: ClassVar[str] = "an absolute path in the container"
    EXAMPLE: ClassVar[str] = "/srv/models"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return it without a slash at its end."""
        return plain_target(text, "an image")


@dataclass(frozen=True, kw_only=True, slots=True)
class TmpfsMount:
    """A file system in memory: PATH[:OPTIONS], of which there are size=64M, mode=1777 and exec, with commas between.

    What is written to it counts as the workload's memory, and is gone with the run.
    """

    target: str
    size: ByteSize | None = None
    mode: FileMode | None = None
    """None is 1777."""
    executable: bool = False

    PATTERN: ClassVar[str] = r"/[^:]*(:[a-z]+(=[0-9A-Za-z.]+)?(,[a-z]+(=[0-9A-Za-z.]+)?){0,2})?"
    EXPECTED: ClassVar[str] = "a mount in memory, as in /cache or /cache:size=64M,mode=0755"
    EXAMPLE: ClassVar[str] = "/cache:size=64M"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mount that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        path, _, rest = text.partition(":")
        options = dict(word.partition("=")[::2] for word in rest.split(",")) if rest else {}
        if unknown := set(options) - {"size", "mode", "exec"}:
            raise ValueError(f"{sorted(unknown)[0]!r} is no option of a mount in memory: size, mode and exec are")
        mode = options.get("mode", "1777")
        return cls(
            target=plain_target(path, "a mount in memory"),
            size=ByteSize.parse(options["size"]) if "size" in options else None,
            mode=None if mode == "1777" else FileMode.parse(mode),
            executable="exec" in options,
        )

    def __str__(self) -> str:
        """Return the canonical text."""
        options = [f"size={self.size}"] if self.size is not None else []
        options += [f"mode={self.mode}"] if self.mode is not None else []
        options += ["exec"] if self.executable else []
        return ":".join(filter(None, (self.target, ",".join(options))))
