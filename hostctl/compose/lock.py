"""``release.lock``: every package of a release by version and SHA-256, so that a build reads nothing else.

The file is sorted JSON. Making it asks the archive; reading it asks nobody and trusts nothing in it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from hostctl.compose.packages import (
    DEFAULT_MIRROR,
    HOST_PACKAGES,
    KERNELS,
    TOOLS_PACKAGES,
    Apt,
    Package,
    PackageResolutionError,
    known_packages,
    select,
)
from hostctl.config.release import ReleaseDeclaration
from hostctl.errors import HostctlError

FORMAT = 1
NAME = "release.lock"
_KERNEL_IMAGE = re.compile(r"linux-image-[0-9]")


class LockError(HostctlError):
    """There is no usable lock."""

    id = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """What a release is made of."""

    suite: str
    mirror: str
    flavour: str
    """Of the kernel, as release.yaml names it."""
    source_date_epoch: int
    """Date of the newest Release file, seconds since 1970: the time that every build of this lock claims."""
    requested: tuple[str, ...]
    """Names that the host set was resolved from."""
    host: tuple[Package, ...]
    kernel: tuple[Package, ...]
    """Extracted, not installed: the package asks for a generator of initrds."""
    tools: tuple[Package, ...]
    security: bool = True
    """Resolved with the suite's updates and security updates."""


def cache_folder() -> Path:
    """Return the builder's cache: $HOSTCTL_CACHE, else hostctl in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("HOSTCTL_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "hostctl"


def requested_packages(release: ReleaseDeclaration) -> tuple[str, ...]:
    """Return the names that the host set of a release starts from."""
    return tuple(sorted({*HOST_PACKAGES, *map(str, release.packages)}))


def mirror_url(release: ReleaseDeclaration) -> str:
    """Return the mirror that a release's packages come from."""
    return DEFAULT_MIRROR if release.base.mirror == "default" else str(release.base.mirror)


def newest_date(releases: list[str]) -> int:
    """Return the latest ``Date`` of Release files, in seconds since 1970."""
    dates = []
    for text in releases:
        match = re.search(r"^Date: (.+)$", text, re.MULTILINE)
        if match:
            dates.append(int(parsedate_to_datetime(match[1].strip()).replace(tzinfo=UTC).timestamp()))
    if not dates:
        raise PackageResolutionError("the archive's Release files have no date")
    return max(dates)


def make_lock(release: ReleaseDeclaration, *, security: bool = True) -> Lock:
    """Resolve a release against the archive as it is now.

    Args:
        release: the declaration.
        security: take the suite's updates and security updates too.

    Raises:
        PackageResolutionError: apt's lists and its choice differ.
        CommandError: apt could not fetch its lists or resolve the names.
    """
    mirror = mirror_url(release)
    names = requested_packages(release)
    with tempfile.TemporaryDirectory(prefix="hostctl-apt-") as folder:
        apt = Apt(Path(folder), mirror, release.base.suite, security=security)
        apt.update()
        known = known_packages((uri, path.read_text()) for uri, path in apt.indexes())
        kernel = {
            name: version
            for name, version in apt.resolve((KERNELS[release.kernel],)).items()
            if _KERNEL_IMAGE.match(name)
        }
        return Lock(
            suite=release.base.suite,
            mirror=mirror,
            flavour=release.kernel,
            source_date_epoch=newest_date(apt.releases()),
            requested=names,
            host=select(apt.resolve(("?essential", *names)), known),
            kernel=select(kernel, known),
            tools=select(apt.resolve(("?essential", *TOOLS_PACKAGES)), known),
            security=security,
        )


def format_lock(lock: Lock) -> str:
    """Return the text of a lock file."""
    return json.dumps({"format": FORMAT, **asdict(lock)}, indent=1, sort_keys=True) + "\n"


def _decode(tree: dict[str, Any]) -> Lock:
    if tree.pop("format") != FORMAT:
        raise ValueError("another format version")
    security = tree.pop("security", True)
    if not isinstance(security, bool):
        raise TypeError("security is neither true nor false")
    sets = {key: tuple(Package(**entry) for entry in tree.pop(key)) for key in ("host", "kernel", "tools")}
    lock = Lock(
        suite=str(tree.pop("suite")),
        mirror=str(tree.pop("mirror")),
        flavour=str(tree.pop("flavour")),
        source_date_epoch=int(tree.pop("source_date_epoch")),
        requested=tuple(map(str, tree.pop("requested"))),
        security=security,
        **sets,
    )
    if tree:
        raise ValueError(f"unknown keys: {', '.join(sorted(tree))}")
    return lock


def parse_lock(text: str, name: str = NAME) -> Lock:
    """Read the text of a lock file.

    Raises:
        LockError: it is not a lock of this format.
    """
    try:
        return _decode(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LockError(f"{name} is not a lock: {error}", hint="`hostctl lock` makes it anew") from error


def load_lock(path: Path, release: Path | None = None) -> Lock:
    """Read a lock file.

    Args:
        path: the lock.
        release: the declaration it belongs to, for the hint.

    Raises:
        LockError: it is missing or not a lock.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        declaration = release or path.with_name("release.yaml")
        hint = f"run `hostctl lock {declaration} -o {path}`"
        raise LockError(f"there is no {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read", details=str(error)) from error
    return parse_lock(text, str(path))


def check_lock(lock: Lock, release: ReleaseDeclaration) -> None:
    """Refuse a lock that was made from another declaration, or for another version of this program.

    Raises:
        LockError: what the declaration asks for is not what was resolved; every difference is named.
    """
    pairs = (
        ("base.suite", lock.suite, release.base.suite),
        ("base.mirror", lock.mirror, mirror_url(release)),
        ("kernel", lock.flavour, release.kernel),
    )
    differing = [f"{key}: locked {locked}, declared {wanted}" for key, locked, wanted in pairs if locked != wanted]
    names, locked_names = set(requested_packages(release)), set(lock.requested)
    differing += [f"package not locked: {name}" for name in sorted(names - locked_names)]
    differing += [f"package locked but not declared: {name}" for name in sorted(locked_names - names)]
    tools = {package.name for package in lock.tools}
    differing += [f"tool not locked: {name}" for name in sorted(set(TOOLS_PACKAGES) - tools)]
    if len(lock.kernel) != 1:
        differing.append(f"kernel: {len(lock.kernel)} packages are locked, not one")
    if differing:
        raise LockError(
            "the lock does not fit release.yaml", details="\n".join(differing), hint="run `hostctl lock` again"
        )
