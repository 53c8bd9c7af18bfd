"""Is this boot on trial, and the verdict on it.

systemd-boot leaves the path of a counted entry in an EFI variable (https://systemd.io/BOOT_LOADER_INTERFACE/);
systemd-bless-boot renames the entry. Nothing here reboots, and nothing decides whether the host is healthy.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Literal

from hostctl.boot.entries import BootEntry, parse_entry
from hostctl.errors import HostctlError
from hostctl.run import run

BLESS = Path("/usr/lib/systemd/systemd-bless-boot")
EFIVARS = Path("sys/firmware/efi/efivars")
COUNT_PATH = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
ATTRIBUTES = 4  # bytes that efivarfs puts before a variable's content
MAX_VARIABLE = 4096
_BLESS_SECONDS = 60.0


class BootCountError(HostctlError):
    """The boot loader left something in its variable that is no entry of ours."""

    id = "boot-count"


def decode_count_path(variable: bytes) -> BootEntry:
    """Return the entry that ``LoaderBootCountPath`` names, as it was called before this boot.

    Args:
        variable: content of the file in efivarfs: four bytes of attributes, then UTF-16 with a NUL.

    Raises:
        BootCountError: it is malformed or names another kind of file.
    """
    try:
        text = variable[ATTRIBUTES:].decode("utf-16-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise BootCountError("the boot loader's count path is not text", details=variable[:80].hex()) from error
    entry = parse_entry(PureWindowsPath(text).name)
    if entry is None or entry.left is None:
        raise BootCountError(f"the boot loader counts {text[:200]!r}, which is no counted entry of a release")
    return entry


def counted_entry(root: Path = Path("/")) -> BootEntry | None:
    """Return the entry whose boot is on trial; none if this boot is not counted.

    Raises:
        BootCountError: the variable is there, but makes no sense.
    """
    try:
        with (root / EFIVARS / COUNT_PATH).open("rb") as file:
            variable = file.read(MAX_VARIABLE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BootCountError("the boot loader's count path cannot be read", details=str(error)) from error
    return decode_count_path(variable)


def mark(verdict: Literal["good", "bad"]) -> None:
    """Rename the entry of this boot: ``good`` takes its counter away, ``bad`` sets its tries left to zero.

    Raises:
        CommandError: systemd-bless-boot failed, for example because the boot is not counted.
    """
    run([BLESS, verdict], timeout=_BLESS_SECONDS)
