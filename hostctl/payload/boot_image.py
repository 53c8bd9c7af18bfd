"""Reads where the parts of an uncompressed boot image lie in it: sections of the PE file, files of the initrd. Pure.

Sources: Microsoft's PE format; Linux, Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

from hostctl.payload.parts import Content, Layout, LayoutError, Part, cover

MAX_SECTIONS = 96
MAX_FILES = 1 << 16
_HEAD = struct.Struct("<4s2xH12xH")  # signature, sections, size of the optional header
_HEAD_END = 24
_SECTION = struct.Struct("<8sIIII16x")  # name, virtual size, address, size, offset
_NEWC = b"070701"
_RECORD = 110
_TRAILER = b"TRAILER!!!"
_WHOLE = 512  # bytes; smaller files are no parts of their own


def _sections(image: bytes | mmap.mmap) -> Iterator[Part]:
    (start,) = struct.unpack_from("<I", image, 0x3C)
    signature, count, optional = _HEAD.unpack_from(image, start)
    if image[:2] != b"MZ" or signature != b"PE\0\0" or count > MAX_SECTIONS:
        raise LayoutError("no PE file")
    for number in range(count):
        name, virtual, _, size, offset = _SECTION.unpack_from(
            image, start + _HEAD_END + optional + number * _SECTION.size
        )
        yield Part(offset=offset, length=min(size, virtual), name=name.rstrip(b"\0").decode("ascii", "replace"))


def _files(image: bytes | mmap.mmap, section: Part) -> Iterator[Content]:
    """Yield the files of a cpio archive; a second archive behind the first is just the rest of the section."""
    place = section.offset
    for _ in range(MAX_FILES):
        if image[place : place + len(_NEWC)] != _NEWC or place + _RECORD > section.end:
            return
        size, length = (int(image[place + at : place + at + 8], 16) for at in (54, 94))
        data = section.offset + (place - section.offset + _RECORD + length + 3) // 4 * 4
        name = image[place + _RECORD : place + _RECORD + length].rstrip(b"\0")
        if name == _TRAILER or data + size > section.end:
            return
        yield Content(name=name.decode("utf-8", "surrogateescape"), stretches=((data, size),))
        place = section.offset + (data - section.offset + size + 3) // 4 * 4


def read_boot_image(image: bytes | mmap.mmap) -> Layout:
    """Return where sections and files of the initrd lie.

    Raises:
        LayoutError: it is no PE file, or its parts reach beyond it.
    """
    parts: list[Part] = []
    contents: list[Content] = []
    try:
        for section in _sections(image):
            inside = [content for content in _files(image, section) if content.stretches[0][1] >= _WHOLE]
            contents += inside
            parts += [
                Part(offset=content.stretches[0][0], length=content.stretches[0][1], name=content.name)
                for content in inside
            ]
            if not inside and section.length:
                parts.append(section)
    except (struct.error, ValueError) as error:
        raise LayoutError(f"the boot image cannot be read: {error}") from error
    return Layout(parts=cover(parts, len(image)), contents=tuple(contents))
