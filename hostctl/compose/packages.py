"""Debian packages by exact bytes: resolve names with apt, then fetch by SHA-256 into the cache.

Resolution runs the machine's apt in a private configuration: its own lists, an empty package status, no
settings of the machine. apt checks the archive's signatures; after that only hashes count. Nothing is
installed here, and no maintainer script runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from hostctl.durable import CHUNK, sha256_file
from hostctl.errors import HostctlError
from hostctl.run import CommandError, run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"
ARCHITECTURE = "amd64"
SIZE_LIMIT = 4 << 30  # bytes; the largest package of Debian has about 1.4 GiB
TIMEOUT = 60.0  # seconds without a byte
WORKERS = 8
ATTEMPTS = 3  # wrong bytes are not asked for again, a broken connection is
APT_TIMEOUT = 600.0  # seconds

HOST_PACKAGES: tuple[str, ...] = (
    "systemd-boot",
    "systemd-repart",
    *("systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "systemd-boot-tools", "libnss-systemd"),
    *("dbus-broker", "udev", "kmod", "crun", "skopeo", "ca-certificates", "catatonit", "python3", "python3-yaml"),
    *("python3-jinja2", "python3-dbus-next", "python3-pyroute2", "python3-tuf", "python3-zstandard", "nftables"),
    *("python3-lz4", "aardvark-dns"),
    *("iproute2", "cryptsetup-bin", "erofs-utils", "openssh-server", "sudo", "fdisk", "e2fsprogs", "dosfstools"),
    "less",
)
TOOLS_PACKAGES: tuple[str, ...] = (
    "e2fsprogs",
    "libc-bin",
    "osslsigncode",
    "apparmor",
    *("erofs-utils", "cryptsetup-bin", "systemd-ukify", "systemd-boot", "systemd-boot-efi", "mtools", "dosfstools"),
    *("fdisk", "kmod", "busybox-static", "zstd", "openssl", "sbsigntool", "efitools", "python3", "python3-pefile"),
    *("python3-cryptography", "cpio", "skopeo", "util-linux", "bash", "coreutils", "binutils", "tar", "gzip"),
    *("xz-utils", "systemd", "systemd-repart"),
)
KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
"""Debian's package that depends on the newest kernel of a flavour."""

_UNKNOWN = re.compile(r"^E: Unable to locate package (\S+)$", re.MULTILINE)
_INST = re.compile(
    r"^Inst (?P<name>[a-z0-9][a-z0-9+.-]*)(?::[a-z0-9]+)? (?:\[\S+\] )?\((?P<version>\S+) ", re.MULTILINE
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PackageResolutionError(HostctlError):
    """apt could not resolve the packages, or its lists do not hold what it chose."""

    id = "package-resolution"


class PackageFetchError(HostctlError):
    """Packages could not be fetched with the bytes that the lock names."""

    id = "package-fetch"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Package:
    """One binary package, pinned."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    """Bytes."""
    url: str

    def __post_init__(self) -> None:
        """Refuse values that could leave the cache folder or reach local files."""
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.name}: sha256 must be 64 hexadecimal digits")
        if not 0 < self.size <= SIZE_LIMIT:
            raise ValueError(f"{self.name}: size must be from 1 to {SIZE_LIMIT} bytes")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.name}: url must be http or https")


def parse_simulation(text: str) -> dict[str, str]:
    """Return name -> version of what ``apt-get --simulate install`` would install."""
    return {match["name"]: match["version"] for match in _INST.finditer(text)}


def unresolved(said: str, suite: str) -> PackageResolutionError:
    """Return the error for what apt-get said when it could not resolve packages.

    Args:
        said: the end of its error output.
        suite: the Debian suite it looked in.
    """
    unknown = _UNKNOWN.findall(said)
    if unknown:
        names = ", ".join(sorted(set(unknown)))
        return PackageResolutionError(
            f"Debian {suite} has no package {names}", hint="correct `packages` in release.yaml; names are as in apt"
        )
    return PackageResolutionError("apt cannot install these packages together", details=said)


def parse_index(text: str) -> Iterator[dict[str, str]]:
    """Yield the single-line fields of each paragraph of a Packages file (deb822, Debian Policy 5.1)."""
    for paragraph in text.split("\n\n"):
        fields = {}
        for line in paragraph.splitlines():
            if line[:1].isspace():
                continue
            key, colon, value = line.partition(":")
            if colon:
                fields[key] = value.strip()
        if "Package" in fields:
            yield fields


def sources(mirror: str, suite: str, *, security: bool = True) -> str:
    """Return the sources.list of a suite.

    Args:
        mirror: URL of the archive. Its security archive is taken to lie beside it: ``URL`` and ``URL-security``.
        suite: the Debian suite.
        security: with its updates and security updates; without, the suite is as its last point release left it.
    """
    base = mirror.rstrip("/")
    archives = [(base, suite)]
    if security:
        archives += [(base, f"{suite}-updates"), (f"{base}-security", f"{suite}-security")]
    return "".join(f"deb [signed-by={KEYRING}] {url} {name} main\n" for url, name in archives)


class Apt:
    """The machine's apt, confined to one folder of its own."""

    def __init__(self, folder: Path, mirror: str, suite: str, *, security: bool = True) -> None:
        self._folder = folder
        self._suite = suite
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").write_bytes(b"")
        (folder / "sources.list").write_text(sources(mirror, suite, security=security))
        settings = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            **dict.fromkeys(
                (f"Dir::Etc::{name}" for name in ("main", "parts", "sourceparts", "preferences", "preferencesparts")),
                "/dev/null",
            ),
            "APT::Architecture": ARCHITECTURE,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::GzipIndexes": "false",
        }
        lines = [f'{key} "{value}";\n' for key, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{ARCHITECTURE}"; }};\n')
        (folder / "apt.conf").write_text("".join(lines))

    def _get(self, *words: str) -> str:
        env = {"APT_CONFIG": str(self._folder / "apt.conf")}
        return run(("apt-get", *words), env=env, timeout=APT_TIMEOUT).text

    def update(self) -> None:
        """Fetch the lists; a suite that cannot be fetched is an error, not a warning."""
        self._get("--error-on=any", "update")

    def resolve(self, names: Sequence[str]) -> dict[str, str]:
        """Return name -> version of the closure of ``names`` on an empty system.

        Raises:
            PackageResolutionError: there is no such package, or they exclude each other.
        """
        try:
            return parse_simulation(self._get("--simulate", "install", *names))
        except CommandError as error:
            raise unresolved(error.details, self._suite) from error

    def indexes(self) -> list[tuple[str, Path]]:
        """Return the archive's URL and the file of each Packages list."""
        text = self._get("indextargets", "--format", "$(REPO_URI) $(FILENAME)", "Created-By: Packages")
        return [(uri, Path(name)) for uri, _, name in (line.partition(" ") for line in text.splitlines())]

    def releases(self) -> list[str]:
        """Return the text of each suite's signed Release file."""
        return [path.read_text() for path in sorted((self._folder / "lists").glob("*_InRelease"))]


def known_packages(indexes: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Package]:
    """Return what Packages lists offer, by name and version.

    Args:
        indexes: each archive's URL and the text of its list.
    """
    found: dict[tuple[str, str], Package] = {}
    for uri, text in indexes:
        for fields in parse_index(text):
            found[fields["Package"], fields["Version"]] = Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                sha256=fields["SHA256"],
                size=int(fields["Size"]),
                url=f"{uri.rstrip('/')}/{fields['Filename']}",
            )
    return found


def select(chosen: dict[str, str], known: dict[tuple[str, str], Package]) -> tuple[Package, ...]:
    """Return the packages that apt chose, sorted by name.

    Raises:
        PackageResolutionError: the lists do not hold one of them, or nothing was chosen.
    """
    missing = [f"{name} {version}" for name, version in chosen.items() if (name, version) not in known]
    if missing or not chosen:
        raise PackageResolutionError("apt chose packages that its lists do not hold", details="\n".join(missing))
    return tuple(sorted(known[item] for item in chosen.items()))


def deb_path(cache: Path, package: Package) -> Path:
    """Return where the bytes of a package lie in the cache."""
    return cache / "debs" / f"{package.sha256}.deb"


def _receive(package: Package, file: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(package.url, timeout=TIMEOUT) as answer:  # noqa: S310 - Package takes http(s) only
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            if size > package.size:
                raise ValueError(f"is longer than the {package.size} bytes of the lock")
            digest.update(chunk)
            file.write(chunk)
    if size != package.size:
        raise ValueError(f"has {size} bytes, the lock says {package.size}")
    if digest.hexdigest() != package.sha256:
        raise ValueError(f"has sha256 {digest.hexdigest()}, the lock says {package.sha256}")


def _fetch(package: Package, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            _receive(package, file)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _obtain(cache: Path, package: Package) -> str | None:
    target = deb_path(cache, package)
    if target.exists():
        if target.stat().st_size == package.size and sha256_file(target) == package.sha256:
            os.utime(target)
            return None
        target.unlink(missing_ok=True)
    problem: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            _fetch(package, target)
        except ValueError as error:
            problem = error
            break
        except (OSError, HTTPException) as error:
            problem = error
        else:
            return None
    return f"{package.name} {package.version}: {problem} ({package.url})"


def fetch_packages(packages: Iterable[Package], cache: Path) -> dict[Package, Path]:
    """Bring every package into the cache, checked by size and SHA-256.

    Args:
        packages: what the lock names.
        cache: the cache's folder.

    Raises:
        PackageFetchError: some could not be had with the right bytes; each is named.
    """
    wanted = tuple(dict.fromkeys(packages))
    (cache / "debs").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        problems = [problem for problem in pool.map(lambda package: _obtain(cache, package), wanted) if problem]
    if problems:
        raise PackageFetchError(
            f"{len(problems)} of {len(wanted)} packages could not be fetched as locked",
            details="\n".join(problems),
            hint="the archive drops replaced versions: `hostctl lock` pins the present ones",
        )
    return {package: deb_path(cache, package) for package in wanted}
