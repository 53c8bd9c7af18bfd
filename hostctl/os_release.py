"""Which release a machine runs, as its ``os-release`` tells (os-release(5), IMAGE_ID and IMAGE_VERSION)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from hostctl.errors import HostctlError


class NotAHostError(HostctlError):
    """This machine does not run a release."""

    id = "not-a-host"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The release that a machine runs."""

    name: str
    version: str


def parse(text: str) -> dict[str, str]:
    """Return the variables of an os-release file; lines that are no assignment are passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            try:
                found[key] = "".join(shlex.split(value))
            except ValueError:
                continue
    return found


def identity(root: Path = Path("/")) -> Identity:
    """Return the release of the machine whose file system starts at ``root``.

    Raises:
        NotAHostError: it does not run one.
    """
    path = root / "usr/lib/os-release"
    try:
        words = parse(path.read_text(encoding="utf-8"))
        return Identity(name=words["IMAGE_ID"], version=words["IMAGE_VERSION"])
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise NotAHostError(
            "this machine does not run a release of hostctl",
            details=f"{path} has no IMAGE_ID and IMAGE_VERSION",
            hint="run this on a host that `hostctl build` made, for example by `hostctl vm ssh DIR -- hostctl …`",
        ) from error
