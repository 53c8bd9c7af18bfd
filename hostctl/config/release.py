"""The declaration of a release, ``release.yaml``, as frozen data, by the conventions of :mod:`hostctl.config.host`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from hostctl.config.values import ByteSize, Duration, HttpUrl, Name, PackageName, RelativePath, ReleaseVersion

OWN_WORDS = ("hostctl.release", "hostctl.blocks", "hostctl.recovery")
"""Words that the initrd reads."""
SEALED_WORDS = frozenset(
    ("root", "roothash", "usrhash", "rootflags", "rd.systemd.verity", "systemd.verity", *OWN_WORDS)
)
"""Words of the kernel command line that tie a release to its verity root."""
MOST_PROFILES = 64
"""AppArmor profiles of a release; each takes time at every boot."""
LABEL_LENGTH = 36
"""Longest name of a GPT partition, in UTF-16 units (UEFI specification, section 5.3.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The Debian suite that packages come from."""

    suite: Literal["trixie"] = "trixie"
    """Debian suite."""
    mirror: HttpUrl | Literal["default"] = "default"
    """Mirror; default is deb.debian.org."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """How a new release is tried."""

    tries: int = 3
    """How often it may be booted before the machine gives it up."""
    deadline: Duration = field(default_factory=lambda: Duration(300.0))
    """Time from the start of user space in which a boot must become healthy."""
    cmdline: tuple[str, ...] = ()
    """Further words of the kernel command line."""

    def __post_init__(self) -> None:
        """Refuse counts that systemd-boot cannot hold."""
        if not 1 <= self.tries <= 9:
            raise ValueError("tries: must be from 1 to 9")
        for word in self.cmdline:
            if not word.isprintable() or any(letter.isspace() for letter in word) or not word.isascii():
                raise ValueError(f"cmdline: {word!r} is not one word")
            if word.partition("=")[0] in SEALED_WORDS:
                raise ValueError(f"cmdline: {word!r} is set when the release is sealed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Sizes of the partitions. They cannot change between releases of one host."""

    root: ByteSize = field(default_factory=lambda: ByteSize(512 << 20))
    """Size of a root slot."""
    esp: ByteSize = field(default_factory=lambda: ByteSize(256 << 20))
    """Size of the EFI system partition."""

    def __post_init__(self) -> None:
        """Refuse sizes that partitions cannot have, or that hold no two boot images."""
        for name, size, least in (("root", self.root, 64), ("esp", self.esp, 64)):
            if size % (1 << 20) or size < least << 20:
                raise ValueError(f"{name}: must be a whole number of MiB, at least {least}M")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseDeclaration:
    """An immutable, versioned OS build."""

    version: Literal[1]
    """Version of this format."""
    name: Name
    """Name of the image: IMAGE_ID in os-release."""
    release: ReleaseVersion
    """Version of the release: IMAGE_VERSION in os-release; later releases must compare greater."""
    base: Base = field(default_factory=Base)
    """Where packages come from."""
    kernel: Literal["cloud", "generic"] = "cloud"
    """Debian's kernel flavour: cloud for virtual machines, generic for hardware."""
    packages: tuple[PackageName, ...] = ()
    """Packages on top of the host's own."""
    files: RelativePath | None = None
    """Folder that is laid over the root, relative to this file."""
    images: tuple[RelativePath, ...] = ()
    """OCI archives that come with the release, relative to this file."""
    apparmor: tuple[RelativePath, ...] = ()
    """Files with an AppArmor profile each, relative to this file, for workloads that name it; 64 at most."""
    channel: Name = field(default_factory=lambda: Name("stable"))
    """The line of releases that this one is published to."""
    integrity: Literal["host"] = "host"
    """Enforcement profile: host = verity root, nothing executable on writable file systems."""
    boot: Boot = field(default_factory=Boot)
    """How it is tried."""
    limits: Limits = field(default_factory=Limits)
    """Sizes."""

    def __post_init__(self) -> None:
        """Refuse a name and version that do not fit a partition label together, and profiles that would do nothing."""
        wrong = [*self._label_problems(), *self._profile_problems()]
        if wrong:
            raise ValueError(*wrong)

    def _label_problems(self) -> Iterator[str]:
        label = f"{self.name}_{self.release}-verity"
        if len(label) > LABEL_LENGTH:
            yield (
                f"release: name and release make the partition label {label!r}, "
                f"which is {len(label) - LABEL_LENGTH} characters too long"
            )

    def _profile_problems(self) -> Iterator[str]:
        if len(self.apparmor) > MOST_PROFILES:
            yield f"apparmor: must be at most {MOST_PROFILES} files"
        for index, path in enumerate(self.apparmor):
            if path in self.apparmor[:index]:
                yield f"apparmor[{index}]: the file is already in the list"
        for index, word in enumerate(self.boot.cmdline if self.apparmor else ()):
            if turns_off_apparmor(word):
                yield f"boot.cmdline[{index}]: {word!r} turns AppArmor off, and the release brings profiles"


def turns_off_apparmor(word: str) -> bool:
    """Tell whether a word of the kernel command line leaves AppArmor out (kernel-parameters.txt)."""
    name, _, value = word.partition("=")
    if name in ("apparmor", "apparmor.enabled"):
        return value.lower() in ("0", "n", "no", "off", "f", "false")
    if name == "lsm":
        return "apparmor" not in value.split(",")
    return name == "security" and value != "apparmor"
