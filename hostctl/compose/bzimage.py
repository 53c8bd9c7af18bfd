"""Reads a Linux bzImage for x86: the setup header, the PE headers, and the compressed kernel within.

Pure and bounded: bytes in, values out, whatever the bytes are. Nothing is changed here.
Sources: Linux, Documentation/arch/x86/boot.rst (setup header; ``payload_offset`` counts from the protected-mode code,
and a zstd payload is followed by its plain size, as scripts/Makefile.lib appends it); Microsoft's PE format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zstandard

from hostctl.errors import HostctlError

PAGE = 4096
SECTOR = 512
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PLAIN_LIMIT = 256 << 20  # bytes of a decompressed kernel; Debian's have about 60 MiB
WINDOW_LIMIT = 128 << 20  # bytes; the kernel is compressed with the largest window that zstd reads unasked
MAX_SECTIONS = 16

SETUP_SECTORS = 0x1F1
SYSTEM_SIZE = 0x1F4  # in paragraphs of 16 bytes
HEADER_END = 0x1EF  # what stands before the setup header may hold the PE headers
PAYLOAD = 0x248  # offset and length, two words
PROTOCOL = 0x20C  # 2.12 of 2012: the flag that tells of a 64-bit kernel

PE32_PLUS = 0x20B
X86_64 = 0x8664
SECTION = struct.Struct("<8sIIII12xI")
"""Name, virtual size, address, size and offset in the file, flags."""


class BzImageError(HostctlError):
    """A file is no bzImage of the kind that is expected."""

    id = "bzimage"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section of the PE file: ``size`` bytes at ``offset`` in the file, ``virtual`` bytes at ``address``."""

    name: bytes
    virtual: int
    address: int
    size: int
    offset: int
    flags: int

    def pack(self) -> bytes:
        """Return the entry of the section table.

        Raises:
            BzImageError: a number does not fit it.
        """
        try:
            return SECTION.pack(self.name, self.virtual, self.address, self.size, self.offset, self.flags)
        except struct.error as error:
            raise BzImageError(f"section {self.name!r} of the kernel would have impossible sizes") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class BzImage:
    """Where things are in a bzImage. Offsets are bytes from the start of the file."""

    setup: int
    """Bytes before the protected-mode code."""
    payload: int
    """Offset of the compressed kernel."""
    payload_size: int
    """Its bytes, the plain size at the end included."""
    plain_size: int
    """Bytes of the kernel when decompressed."""
    optional_header: int
    section_table: int
    sections: tuple[Section, ...]


def word(image: bytes | bytearray, offset: int) -> int:
    """Return the 32-bit little-endian number at ``offset``."""
    return int(struct.unpack_from("<I", image, offset)[0])


def parse(image: bytes) -> BzImage:
    """Return where things are in a bzImage.

    Raises:
        BzImageError: it is not a 64-bit bzImage with a PE header and a zstd payload.
    """
    try:
        return _parse(image)
    except struct.error as error:
        raise BzImageError("the kernel's headers are cut off") from error


def _parse(image: bytes) -> BzImage:
    boot_flag, magic, protocol = struct.unpack_from("<H2x4sH", image, 0x1FE)
    if image[:2] != b"MZ" or boot_flag != 0xAA55 or magic != b"HdrS":
        raise BzImageError("this is no bzImage with an EFI header")
    (flags,) = struct.unpack_from("<H", image, 0x236)
    if protocol < PROTOCOL or not flags & 1:
        raise BzImageError("this is no 64-bit kernel")
    setup = ((image[SETUP_SECTORS] or 4) + 1) * SECTOR
    offset, size = struct.unpack_from("<II", image, PAYLOAD)
    payload = setup + offset
    if offset == 0 or size < 16 or payload + size > len(image):
        raise BzImageError(f"the payload of {size} bytes at {payload} is not in the file of {len(image)}")
    if image[payload : payload + 4] != ZSTD_MAGIC:
        raise BzImageError("the kernel is not compressed by zstd")
    optional, table, sections = _pe(image)
    return BzImage(
        setup=setup,
        payload=payload,
        payload_size=size,
        plain_size=word(image, payload + size - 4),
        optional_header=optional,
        section_table=table,
        sections=sections,
    )


def _pe(image: bytes) -> tuple[int, int, tuple[Section, ...]]:
    """Return the offsets of the optional header and of the section table, and the sections."""
    start = word(image, 0x3C)
    signature, machine, count, optional_size = struct.unpack_from("<4sHH12xH", image, start)
    optional = start + 24
    (kind,) = struct.unpack_from("<H", image, optional)
    if signature != b"PE\0\0" or machine != X86_64 or kind != PE32_PLUS or not 0 < count <= MAX_SECTIONS:
        raise BzImageError("the kernel's PE header is not the expected one")
    table = optional + optional_size
    sections = tuple(
        Section(name=name, virtual=virtual, address=address, size=size, offset=offset, flags=flags)
        for name, virtual, address, size, offset, flags in (
            SECTION.unpack_from(image, table + index * SECTION.size) for index in range(count)
        )
    )
    if any(section.offset + section.size > len(image) for section in sections):
        raise BzImageError("a section of the kernel ends outside the file")
    return optional, table, sections


def decompress(image: bytes, layout: BzImage) -> bytes:
    """Return the kernel in its plain form: an ELF file, followed by the relocations of the decompressor.

    Raises:
        BzImageError: it is damaged, or has another size than it claims.
    """
    if not 0 < layout.plain_size <= PLAIN_LIMIT:
        raise BzImageError(f"the kernel claims to have {layout.plain_size} bytes when decompressed")
    frame = memoryview(image)[layout.payload : layout.payload + layout.payload_size - 4]
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT).stream_reader(frame)
    try:
        plain = reader.read(layout.plain_size)
        more = reader.read(1)
    except zstandard.ZstdError as error:
        raise BzImageError(f"the kernel cannot be decompressed: {error}") from error
    if len(plain) != layout.plain_size or more:
        raise BzImageError("the kernel has another size than it claims")
    return plain
