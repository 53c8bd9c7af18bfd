"""Reads declarations from text and from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hostctl.config.decode import decode
from hostctl.config.host import HostDeclaration
from hostctl.config.nodes import MAX_BYTES, Document
from hostctl.config.problems import DeclarationError, Problem
from hostctl.errors import EXIT_USAGE, HostctlError

if TYPE_CHECKING:
    from hostctl.config.release import ReleaseDeclaration

__all__ = [
    "DeclarationError",
    "DeclarationUnreadableError",
    "Problem",
    "load_host",
    "load_release",
    "parse_host",
    "parse_release",
    "read_text",
]


class DeclarationUnreadableError(HostctlError):
    """The file cannot be read at all."""

    id: ClassVar[str] = "declaration-unreadable"
    exit_code: ClassVar[int] = EXIT_USAGE


def parse_host(text: str, name: str = "host.yaml") -> HostDeclaration:
    """Return the machine that a YAML text declares.

    Args:
        text: contents of the file.
        name: what to call it in errors.

    Raises:
        DeclarationError: it is not a valid declaration; has every problem with its position.
    """
    return decode(text, HostDeclaration, name)


def parse_release(text: str, name: str = "release.yaml") -> ReleaseDeclaration:
    """Return the release that a YAML text declares; arguments and errors as :func:`parse_host`."""
    from hostctl.config.release import ReleaseDeclaration  # noqa: PLC0415 - no host reads one, and start-up counts

    return decode(text, ReleaseDeclaration, name)


def decode_bytes(data: bytes, name: str) -> str:
    """Return the text of a declaration's bytes, which are UTF-8, with or without a byte order mark.

    Raises:
        DeclarationError: it is too large, or not UTF-8, with the position of the first wrong byte.
    """
    if len(data) > MAX_BYTES:
        raise Document("", name).refusal(1, 1, f"the file is larger than {MAX_BYTES >> 10} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        document = Document(data.decode("utf-8", "replace"), name)
        before = Document(data[: error.start].decode("utf-8", "replace"), name).lines
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise document.refusal(len(before), len(before[-1]) + 1, message) from None


def read_text(path: Path) -> str:
    """Return the text of a declaration's file, of which no more than the allowed size is read.

    Raises:
        DeclarationUnreadableError: it cannot be opened or read.
        DeclarationError: it is too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DeclarationUnreadableError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_bytes(data, str(path))


def load_host(path: Path) -> HostDeclaration:
    """Return the machine that the file ``path`` declares; errors as :func:`read_text` and :func:`parse_host`."""
    return parse_host(read_text(path), str(path))


def load_release(path: Path) -> ReleaseDeclaration:
    """Return the release that the file ``path`` declares; errors as :func:`read_text` and :func:`parse_release`."""
    return parse_release(read_text(path), str(path))
