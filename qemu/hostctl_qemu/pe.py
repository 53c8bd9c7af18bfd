"""Reads the parts of a unified kernel image (UKI) out of its PE sections.

Pure and bounded: takes bytes that may be hostile, returns slices of them. It does not check signatures. Of an image
with several profiles it reads what boots without a choice: what they share, and the first.
Layout: Microsoft's PE format, and the UAPI group's specification of unified kernel images.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostctl.errors import HostctlError

MAX_SECTIONS = 96  # the limit that the Windows loader sets, UKIs have about ten
HEADER = struct.Struct("<4sHH12xH2x")  # signature, machine, sections, (time, symbols), size of the optional header
SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, address, raw size, raw offset
MAX_CMDLINE = 4096
PROFILE = ".profile"
"""Starts a profile: sections before the first one are shared, those behind it replace shared ones for its profile."""


class UkiError(HostctlError):
    """A file is no usable unified kernel image."""

    id = "uki-unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uki:
    """What a unified kernel image boots: the kernel, its initrd and its command line."""

    kernel: bytes
    initrd: bytes
    cmdline: str


def _sections(image: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents in the order of the table."""
    if image[:2] != b"MZ":
        raise UkiError("this is no PE file: it does not start with MZ")
    (start,) = struct.unpack_from("<I", image, 0x3C)
    signature, _, count, optional = HEADER.unpack_from(image, start)
    if signature != b"PE\0\0" or count > MAX_SECTIONS:
        raise UkiError(f"this is no usable PE file: signature {signature!r}, {count} sections")
    for index in range(count):
        offset = start + HEADER.size + optional + index * SECTION.size
        raw_name, virtual, _, size, position = SECTION.unpack_from(image, offset)
        name = raw_name.rstrip(b"\0").decode("ascii", "replace")
        if position + size > len(image):
            raise UkiError(f"section {name} ends at byte {position + size}, the file at {len(image)}")
        yield name, image[position : position + min(size, virtual)]


def profiles(image: bytes) -> tuple[Mapping[str, bytes], ...]:
    """Return the contents of a PE file's sections by name, once for each profile of a UKI that has several.

    Raises:
        UkiError: the headers are not those of a PE file, or point outside it; a section is twice in one profile.
    """
    shared: dict[str, bytes] = {}
    own: list[dict[str, bytes]] = []
    found = shared
    try:
        for name, data in _sections(image):
            if name == PROFILE:
                found = {}
                own.append(found)
            if name in found:
                raise UkiError(f"section {name} is there twice")
            found[name] = data
    except struct.error as error:
        raise UkiError("the PE headers are cut off") from error
    return tuple({**shared, **each} for each in own) or (shared,)


def sections(image: bytes) -> Mapping[str, bytes]:
    """Return the contents of a PE file's sections by name, of a UKI's first profile where it has several.

    Raises:
        UkiError: see :func:`profiles`.
    """
    return profiles(image)[0]


def read_uki(image: bytes) -> Uki:
    """Return the kernel, initrd and command line of a unified kernel image.

    Raises:
        UkiError: it is no PE file, or one of `.linux`, `.initrd` and `.cmdline` is missing or unusable.
    """
    parts = sections(image)
    missing = [name for name in (".linux", ".initrd", ".cmdline") if not parts.get(name)]
    if missing:
        raise UkiError(f"the image has no section {', '.join(missing)}", details=f"sections: {', '.join(parts)}")
    raw = parts[".cmdline"].rstrip(b"\0\n")
    if len(raw) > MAX_CMDLINE:
        raise UkiError(f"the command line is {len(raw)} bytes long, at most {MAX_CMDLINE} are allowed")
    try:
        cmdline = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UkiError("the command line is not UTF-8") from error
    return Uki(kernel=parts[".linux"], initrd=parts[".initrd"], cmdline=cmdline)
