"""Value types that lead somewhere else: registries, images, keys, published ports, mounts."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, cast

from hostctl.config.addresses import IpAddress, port_number
from hostctl.config.names import Name, plain_target
from hostctl.config.text import Text, quoted

# distribution/reference: reference.go; docker and skopeo read the same grammar.
_REGISTRY = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_COMPONENT = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"


DOCKER_HUB = "docker.io"
DOCKER_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
"""Other names of Docker Hub, which stand for the same images."""


class RegistryHost(Text):
    """A registry's host name with an optional port; Docker Hub has one name only, docker.io."""

    __slots__ = ()
    PATTERN: ClassVar[str] = _REGISTRY
    EXPECTED: ClassVar[str] = "a registry's host[:port]"
    EXAMPLE: ClassVar[str] = "registry.example:5000"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return it in small letters, as names in the DNS are equal, and Docker Hub's other names as its first."""
        if ":" in text:
            port_number(text.rpartition(":")[2])
        return DOCKER_HUB if text.lower() in DOCKER_HUB_NAMES else text.lower()


class RegistryMirror(Text):
    """A registry, or a part of one, that has the same images as another: host[:port][/name]."""

    __slots__ = ()
    PATTERN: ClassVar[str] = rf"{_REGISTRY}(/{_COMPONENT})*"
    EXPECTED: ClassVar[str] = "a mirror, as in mirror.example or mirror.example:5000/docker.io"
    EXAMPLE: ClassVar[str] = "mirror.example/docker.io"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return it with the host in small letters."""
        host, slash, rest = text.partition("/")
        return f"{RegistryHost(host)}{slash}{rest}"

    @property
    def host(self) -> str:
        """Host and port."""
        return self.partition("/")[0]


class ImageReference(Text):
    """An image: [registry/]name[:tag][@sha256:…]. Without a registry it is one of Docker Hub, without a tag :latest."""

    __slots__ = ()
    PATTERN: ClassVar[str] = rf"({_REGISTRY}/)?{_COMPONENT}(/{_COMPONENT})*(:{_TAG})?(@{_DIGEST})?"
    EXPECTED: ClassVar[str] = "an image, as in registry.example/site:1, registry.example/site@sha256:… or nginx:1"
    EXAMPLE: ClassVar[str] = "registry.example/site:1"

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return the whole name, by Docker's rules.

        The part before the first slash is a registry if it has a dot or a port or is localhost; a name of one part is
        in Docker Hub's library. Source: distribution/reference, normalize.go.
        """
        if len(text) > 500:
            raise ValueError(f"{quoted(text)} is too long for an image")
        name, at, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry = RegistryHost(first)
        else:
            registry, rest = RegistryHost(DOCKER_HUB), name
        if re.fullmatch(rf"{_COMPONENT}(/{_COMPONENT})*(:{_TAG})?", rest) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        if registry == DOCKER_HUB and "/" not in rest:
            rest = f"library/{rest}"
        if ":" not in rest and not at:
            rest += ":latest"
        return f"{registry}/{rest}{at}{digest}"

    @property
    def registry(self) -> str:
        """Host and port, the part before the first slash."""
        return self.partition("/")[0]

    @property
    def repository(self) -> str:
        """The name within the registry, without tag and digest."""
        return self.partition("/")[2].partition("@")[0].partition(":")[0]

    @property
    def place(self) -> str:
        """Registry and name, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def tag(self) -> str | None:
        """The tag, if it has one."""
        return self.partition("/")[2].partition("@")[0].partition(":")[2] or None

    @property
    def digest(self) -> str | None:
        """The manifest's digest, ``sha256:…``, if it is pinned."""
        return self.partition("@")[2] or None


class SshKey(Text):
    """An SSH public key with an optional comment, as one line of authorized_keys without options."""

    __slots__ = ()
    KINDS: ClassVar[tuple[str, ...]] = (
        "ssh-ed25519",
        "sk-ssh-ed25519@openssh.com",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "ssh-rsa",
    )
    """Types that Debian 13's sshd accepts."""
    PATTERN: ClassVar[str] = r"[a-z0-9@.-]+ +[A-Za-z0-9+/]+={0,2}( .*)?"
    EXPECTED: ClassVar[str] = "an SSH public key, as in 'ssh-ed25519 AAAA… name'"
    EXAMPLE: ClassVar[str] = (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ops@example"
    )

    @classmethod
    def canonical(cls, text: str) -> str:
        """Return type, key and comment with one space between; refuse damaged keys and unknown types."""
        kind, blob, *comment = text.split(maxsplit=2)
        if kind not in cls.KINDS:
            raise ValueError(f"{quoted(kind)} is not a type of SSH key that sshd accepts: {', '.join(cls.KINDS)}")
        try:
            key = base64.b64decode(blob, validate=True)
        except binascii.Error:
            key = b""
        # RFC 4253, section 6.6: the blob starts with its type as a string with a 32 bit length.
        if not key.startswith(len(kind).to_bytes(4, "big") + kind.encode()) or len(key) < len(kind) + 4 + 32:
            raise ValueError(f"the {kind} key {quoted(blob)} is damaged: copy the whole line of the .pub file")
        words = [kind, blob, *(part.strip() for part in comment)]
        if not all(word.isprintable() for word in words):
            raise ValueError("the comment of an SSH key contains a character that cannot be printed")
        return " ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True, slots=True)
class PortMapping:
    """A published port or range: [ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/tcp|/udp], an IPv6 address in brackets."""

    address: str | None = None
    host_port: int
    container_port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    count: int = 1
    """How many ports, each mapped to the one at the same place of the other range."""

    PATTERN: ClassVar[str] = (
        r"((\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?[0-9]{1,5}(-[0-9]{1,5})?:[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp))?"
    )
    EXPECTED: ClassVar[str] = (
        "a published port, as in 8080:80, 127.0.0.1:53:53/udp, [2001:db8::1]:8080:80 or 8000-8010:80-90"
    )
    EXAMPLE: ClassVar[str] = "8080:80"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mapping that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        ports, _, protocol = text.partition("/")
        rest, _, container = ports.rpartition(":")
        address, _, host = rest.rpartition(":")
        (host_port, count), (container_port, containers) = _ports(host, "host"), _ports(container, "container")
        if count != containers:
            raise ValueError(f"{quoted(text)} maps {count} ports to {containers}; both ranges must be of one length")
        return cls(
            address=str(IpAddress(address.strip("[]"))) if address else None,
            host_port=host_port,
            container_port=container_port,
            protocol=cast(Literal["tcp", "udp"], protocol or "tcp"),
            count=count,
        )

    def __str__(self) -> str:
        """Return the canonical text; tcp is left out."""
        address = "" if self.address is None else f"[{self.address}]:" if ":" in self.address else f"{self.address}:"
        host, container = (
            f"{first}-{first + self.count - 1}" if self.count > 1 else f"{first}"
            for first in (self.host_port, self.container_port)
        )
        return f"{address}{host}:{container}{'' if self.protocol == 'tcp' else '/udp'}"


def _ports(text: str, what: str) -> tuple[int, int]:
    """Return the first port of ``FIRST[-LAST]``, and how many they are."""
    start, dash, end = text.partition("-")
    first = port_number(start, f"{what} port")
    last = port_number(end, f"{what} port") if dash else first
    if last < first:
        raise ValueError(f"{quoted(text)} ends before it begins")
    return first, last - first + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeMount:
    """A mounted volume, NAME:/path[:ro], or a folder of the host, /var/lib/hostctl/binds/NAME:/path[:rw].

    No other folder of the host can be shown to a workload. A volume can be written unless it says ro, a folder of the
    host only if it says rw.
    """

    volume: Name
    target: str
    read_only: bool = False
    of_host: bool = False

    BINDS: ClassVar[str] = "/var/lib/hostctl/binds/"
    PATTERN: ClassVar[str] = r"([^:/]+|/[^:]+):/[^:]*(:(ro|rw))?"
    EXPECTED: ClassVar[str] = "a mounted volume, as in content:/srv or content:/srv:ro"
    EXAMPLE: ClassVar[str] = "content:/srv"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mount that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        name, target, *mode = text.split(":")
        if name.startswith("/"):
            folder = name.removeprefix(cls.BINDS)
            if re.fullmatch(Name.PATTERN, folder) is None:
                raise ValueError(f"{quoted(name)} cannot be shown to a workload: folders named {cls.BINDS}NAME can")
            read_only = mode != ["rw"]
            path = plain_target(target, "a folder")
            return cls(volume=Name(folder), target=path, read_only=read_only, of_host=True)
        return cls(volume=Name(name), target=plain_target(target, "a volume"), read_only=mode == ["ro"])

    def __str__(self) -> str:
        """Return the canonical text; rw is left out."""
        if self.of_host:
            return f"{self.BINDS}{self.volume}:{self.target}{'' if self.read_only else ':rw'}"
        return f"{self.volume}:{self.target}{':ro' if self.read_only else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigMount:
    """A config as a file in the container that can only be read: NAME:/path."""

    config: Name
    target: str

    PATTERN: ClassVar[str] = r"[^:/]+:/[^:]+"
    EXPECTED: ClassVar[str] = "a config and where its file is seen, as in site:/etc/site.conf"
    EXAMPLE: ClassVar[str] = "site:/etc/site.conf"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mount that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}")
        name, _, target = text.partition(":")
        return cls(config=Name(name), target=plain_target(target, "a config"))

    def __str__(self) -> str:
        """Return the canonical text."""
        return f"{self.config}:{self.target}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadUser:
    """A user inside a container, by number: UID[:GID], each from 0 to 65535 (the size of its range)."""

    uid: int
    gid: int | None = None

    PATTERN: ClassVar[str] = r"[0-9]{1,5}(:[0-9]{1,5})?"
    EXPECTED: ClassVar[str] = "UID or UID:GID in numbers, as in 1000:1000"
    EXAMPLE: ClassVar[str] = "1000:1000"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the user that ``text`` writes, or raise ValueError."""
        if re.fullmatch(cls.PATTERN, text) is None or any(int(number) > 65535 for number in text.split(":")):
            raise ValueError(f"{quoted(text)} is not {cls.EXPECTED}, each at most 65535")
        uid, _, gid = text.partition(":")
        return cls(uid=int(uid), gid=int(gid) if gid else None)

    def __str__(self) -> str:
        """Return the canonical text."""
        return f"{self.uid}" if self.gid is None else f"{self.uid}:{self.gid}"
