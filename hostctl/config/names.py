"""Value types that name things: users, hosts, packages, kernel settings, capabilities, paths."""

from __future__ import annotations

import difflib
import posixpath
from pathlib import Path
from typing import ClassVar

from hostctl.config.text import Text, quoted

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

RESERVED_USERS = frozenset(
    [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "nobody",
        "_apt",
        "messagebus",
        "sshd",
        "polkitd",
        "hostctl",
        "tss",
    ]
)
"""System users of Debian's base-passwd and of the packages on a host."""

CAPABILITIES = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
"""By number, from Linux' include/uapi/linux/capability.h."""


def _did_you_mean(text: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(text, known, 1) if len(text) <= 64 else []
    return f"; did you mean {near[0]!r}?" if near else ""


class Name(Text):
    """A name of a workload, volume, link, check, channel or image."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?"
    EXPECTED: ClassVar[str] = "a name of 1 to 31 small letters, digits and inner dashes"
    EXAMPLE: ClassVar[str] = "site"


class HostName(Text):
    """A host name as RFC 1123 has it, in small letters, at most 64 characters (Linux' limit)."""

    __slots__ = ()
    PATTERN: ClassVar[str] = rf"{_LABEL}(\.{_LABEL})*"
    EXPECTED: ClassVar[str] = "a host name of small letters, digits, inner dashes and dots"
    EXAMPLE: ClassVar[str] = "web-1"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse names that Linux cannot hold or that mean this machine everywhere."""
        if len(text) > 64:
            raise ValueError(f"{quoted(text)} is longer than 64 characters")
        if text == "localhost" or text.replace(".", "").isdigit():
            raise ValueError(f"{quoted(text)} cannot be the name of a machine")
        return text


class UserName(Text):
    """A login name that is no system user's."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[a-z_][a-z0-9_-]{0,30}"
    EXPECTED: ClassVar[str] = "a user name of up to 31 small letters, digits, _ and -, starting with a letter"
    EXAMPLE: ClassVar[str] = "ops"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse names that the system uses itself."""
        if text in RESERVED_USERS or text.startswith("systemd-"):
            raise ValueError(f"{text!r} is a system user's name")
        return text


class Capability(Text):
    """A Linux capability, as in CAP_NET_RAW."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z_]{1,40}"
    EXPECTED: ClassVar[str] = "a capability, as in CAP_NET_RAW"
    EXAMPLE: ClassVar[str] = "CAP_NET_RAW"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the upper-case name with its prefix."""
        name = "CAP_" + text.upper().removeprefix("CAP_")
        if name not in CAPABILITIES:
            raise ValueError(f"{text!r} is not a capability of Linux{_did_you_mean(name, CAPABILITIES)}")
        return name


class AppArmorProfile(Text):
    """The name of an AppArmor profile that the release brings."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
    EXPECTED: ClassVar[str] = "a profile's name of 1 to 63 letters, digits, dots, dashes and _"
    EXAMPLE: ClassVar[str] = "hostctl-default"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse the kernel's word for having none."""
        if text == "unconfined":
            raise ValueError("'unconfined' is no profile; without the setting there is none")
        return text


class PackageName(Text):
    """The name of a Debian package (Debian Policy 5.6.1)."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[a-z0-9][a-z0-9+.-]+"
    EXPECTED: ClassVar[str] = "the name of a Debian package"
    EXAMPLE: ClassVar[str] = "openssh-server"


class SysctlName(Text):
    """A kernel setting, with dots or slashes between its parts as sysctl.d(5) has it."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[a-z0-9_]+([./][A-Za-z0-9_:-]+)+"
    EXPECTED: ClassVar[str] = "a kernel setting, as in net.ipv4.ip_forward"
    EXAMPLE: ClassVar[str] = "net.ipv4.ip_forward"


class TimeZone(Text):
    """A name from the IANA time zone database."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}"
    EXPECTED: ClassVar[str] = "a time zone, as in Europe/Berlin"
    EXAMPLE: ClassVar[str] = "Europe/Berlin"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse a zone that this machine's database lacks; where there is none, the form must do."""
        import zoneinfo  # noqa: PLC0415 - it reads how Python was built, and start-up counts

        databases = [Path(folder) for folder in zoneinfo.TZPATH if Path(folder, "UTC").is_file()]
        if databases and not any((folder / text).is_file() for folder in databases):
            hint = _did_you_mean(text, tuple(sorted(zoneinfo.available_timezones())))
            raise ValueError(f"{text!r} is not in the time zone database{hint}")
        return text


def _plain_path(text: str) -> None:
    if not text.isprintable():
        raise ValueError(f"{quoted(text)} contains a character that cannot be printed")
    if ".." in text.split("/"):
        raise ValueError(f"{quoted(text)} must not contain ..")
    if len(text.encode()) > 1024 or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError(f"{quoted(text)} is too long for a path")


def plain_target(text: str, what: str) -> str:
    """Return the canonical form of a path at which something is mounted in a container.

    Args:
        text: the path as written.
        what: what is mounted, for the error message.

    Raises:
        ValueError: it is not a plain absolute path below the root, or in /proc, /sys or /dev.
    """
    parts = text.rstrip("/").split("/")[1:]
    if not parts or any(part in ("", ".", "..") for part in parts) or not text.isprintable():
        raise ValueError(f"{quoted(text)} is not a plain path below the container's root")
    if parts[0] in ("proc", "sys", "dev"):
        raise ValueError(f"{what} cannot be mounted in /{parts[0]}")
    _plain_path(text)
    return text.rstrip("/")


class EtcPath(Text):
    """The absolute path of a file below /etc."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"/etc/.+"
    EXPECTED: ClassVar[str] = "the path of a file below /etc"
    EXAMPLE: ClassVar[str] = "/etc/motd"

    OWNED: ClassVar[dict[str, str]] = {"/etc/hostname": "hostname", "/etc/localtime": "timezone"}
    """Files that a setting of the declaration makes."""

    @classmethod
    def canonical(cls, text: str) -> str:
        """Refuse other spellings of a path, and files that a setting makes."""
        _plain_path(text)
        if posixpath.normpath(text) != text:
            raise ValueError(f"{quoted(text)} should be written {quoted(posixpath.normpath(text))}")
        if text in cls.OWNED:
            raise ValueError(f"{text} is made from the setting {cls.OWNED[text]!r}")
        if text == "/etc/machine-id":
            raise ValueError(f"{text} belongs to the machine and cannot be declared")
        return text

    @property
    def below_etc(self) -> str:
        """The path relative to /etc."""
        return self.removeprefix("/etc/")


class RelativePath(Text):
    """A path below the folder of the file that names it."""

    __slots__ = ()
    PATTERN: ClassVar[str] = r"[^/].*"
    EXPECTED: ClassVar[str] = "a path relative to this file"
    EXAMPLE: ClassVar[str] = "overlay"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the path without doubled, leading-dot and trailing slashes."""
        _plain_path(text)
        return posixpath.normpath(text)
