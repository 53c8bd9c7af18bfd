"""Reads the parts of a unified kernel image (UKI) out of its PE sections.

Pure and bounded: takes bytes that may be hostile, returns slices of them. It does not check signatures.
Layout: Microsoft's PE format, and the UAPI group's specification of unified kernel images.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hostctl.errors import HostctlError

MAX_SECTIONS = 96  # the limit that the Windows loader sets, UKIs have about ten
HEADER = struct.Struct("<4sHH12xH2x")  # signature, machine, sections, (time, symbols), size of the optional header
SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, address, raw size, raw offset
MAX_CMDLINE = 4096


class UkiError(HostctlError):
    """A file is no usable unified kernel image."""

    id = "uki-unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Uki:
    """What a unified kernel image boots: the kernel, its initrd and its command line."""

    kernel: bytes
    initrd: bytes
    cmdline: str


def sections(image: bytes) -> Mapping[str, bytes]:
    """Return the contents of a PE file's sections by name.

    Raises:
        UkiError: the headers are not those of a PE file, or point outside it.
    """
    try:
        if image[:2] != b"MZ":
            raise UkiError("this is no PE file: it does not start with MZ")
        (start,) = struct.unpack_from("<I", image, 0x3C)
        signature, _, count, optional = HEADER.unpack_from(image, start)
        if signature != b"PE\0\0" or count > MAX_SECTIONS:
            raise UkiError(f"this is no usable PE file: signature {signature!r}, {count} sections")
        found: dict[str, bytes] = {}
        for index in range(count):
            offset = start + HEADER.size + optional + index * SECTION.size
            raw_name, virtual, _, size, position = SECTION.unpack_from(image, offset)
            name = raw_name.rstrip(b"\0").decode("ascii", "replace")
            if name in found:
                raise UkiError(f"section {name} is there twice")
            if position + size > len(image):
                raise UkiError(f"section {name} ends at byte {position + size}, the file at {len(image)}")
            found[name] = image[position : position + min(size, virtual)]
    except struct.error as error:
        raise UkiError("the PE headers are cut off") from error
    return found


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
