"""Puts a kernel's plain contents where its compressed ones were, so that patches between releases see through it.

The compressed payload of a bzImage changes wholly with every build of a kernel, its plain contents hardly. So the
same contents take its place as a zstd frame that compresses nothing but runs of zeros: the decompressor that the image
brings reads it as it reads any other. The frame is written here, byte by byte, so no compressor's version decides it.

The image is laid out anew for firmware, which loads sections. The frame gets a section of its own at the end, and the
two instructions that point at the payload, and the number that says how long it is, are set. What the old payload
took stays as addresses and goes from the file. Such a kernel starts by its EFI entry only, as the one in a UKI does;
a BIOS boot loader would load the file as one piece.

Everything that must hold is checked, before and after: of a kernel that is built in another way nothing is guessed.
Sources: those of :mod:`hostctl.compose.bzimage`; RFC 8878 (zstd frames); Linux, lib/decompress_unzstd.c and
drivers/firmware/efi/libstub/x86-stub.c (``efi_decompress_kernel`` reads ``input_data``, ``input_len``, ``output_len``).
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace

from hostctl.compose.bzimage import (
    HEADER_END,
    PAGE,
    PAYLOAD,
    SECTION,
    SECTOR,
    SYSTEM_SIZE,
    ZSTD_MAGIC,
    BzImage,
    BzImageError,
    Section,
    decompress,
    parse,
    word,
)

BLOCK = 128 << 10  # bytes of the largest block that a frame may have; also the window
# Frame_Header_Descriptor: no content size, no checksum, no dictionary; Window_Descriptor: 2^(10+7) bytes.
FRAME_HEADER = ZSTD_MAGIC + bytes((0, 7 << 3))
RAW, RUN = 0, 1  # Block_Type
REFERENCES = 2  # instructions that take the payload's address, in decompress_kernel and extract_kernel
MAX_ADDRESS = 1 << 31  # what a relative operand of an instruction reaches
READ_ONLY_DATA = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
NAME = b".payload"
CERTIFICATES = 112 + 4 * 8  # entry of the certificate table, from the start of the optional header of PE32+


def stored_frame(plain: bytes) -> bytes:
    """Return a zstd frame of ``plain``: pages of zeros as runs, all others as they are."""
    zero = bytes(PAGE)
    frame = bytearray(FRAME_HEADER)
    blocks = _blocks([plain[at : at + PAGE] == zero for at in range(0, len(plain), PAGE)], len(plain))
    for index, (start, end, kind) in enumerate(blocks):
        last = index == len(blocks) - 1
        frame += struct.pack("<I", last | kind << 1 | (end - start) << 3)[:3]
        frame += b"\0" if kind == RUN else plain[start:end]
    return bytes(frame)


def _blocks(zeros: list[bool], size: int) -> list[tuple[int, int, int]]:
    """Return start, end and type of each block.

    Args:
        zeros: for each page, whether it is one of zeros.
        size: bytes of the whole; the last page may be shorter.
    """
    blocks: list[tuple[int, int, int]] = []
    for index, is_zero in enumerate(zeros):
        start, end, kind = index * PAGE, min((index + 1) * PAGE, size), RUN if is_zero else RAW
        if blocks and blocks[-1][2] == kind and end - blocks[-1][0] <= BLOCK:
            blocks[-1] = (blocks[-1][0], end, kind)
        else:
            blocks.append((start, end, kind))
    return blocks


def rewrap(image: bytes) -> bytes:
    """Return a bzImage that holds the same kernel as a stored frame.

    Raises:
        BzImageError: the image is not built as expected, or the result would not hold the same kernel.
    """
    layout = parse(image)
    plain = decompress(image, layout)
    frame = stored_frame(plain)
    body = _Rewrapped(image, layout)
    result = body.assemble(frame + struct.pack("<I", len(plain)))
    again = parse(result)
    if decompress(result, again) != plain:
        raise BzImageError("the rewrapped kernel does not hold the same bytes")
    return result


class _Rewrapped:
    """A bzImage on its way to its new layout. Addresses are those of the loaded image."""

    def __init__(self, image: bytes, layout: BzImage) -> None:
        self.image = bytearray(image)
        self.layout = layout
        self.holder = self._holder()
        self.end = layout.payload + layout.payload_size
        tail = self.holder.offset + self.holder.size
        self.references = _references(image, layout, self.end, tail)
        self.lengths = _lengths(image, layout, self.end, tail)

    def _holder(self) -> Section:
        """Return the section that the payload lies in; all must lie in the file as they do when loaded."""
        layout = self.layout
        if any(section.offset != section.address for section in layout.sections):
            raise BzImageError("a section of the kernel is loaded to another place than it has in the file")
        ordered = sorted(layout.sections, key=lambda section: section.address)
        if ordered != list(layout.sections):
            raise BzImageError("the sections of the kernel are not in order")
        for section in layout.sections:
            inside = section.offset <= layout.payload
            if inside and layout.payload + layout.payload_size <= section.offset + section.size:
                return section
        raise BzImageError("no section of the kernel holds the payload")

    def assemble(self, payload: bytes) -> bytes:
        """Return the image with ``payload`` in place of the old one."""
        layout = self.layout
        address = _up(max(section.address + section.virtual for section in layout.sections), PAGE)
        if address + len(payload) > MAX_ADDRESS:
            raise BzImageError("the sections of the kernel end where no instruction reaches")
        for at in self.references:
            struct.pack_into("<i", self.image, at, address - (at + 4))
        struct.pack_into("<I", self.image, self.lengths, len(payload))
        result, sections = self._pack(address, payload)
        table_end = layout.section_table + len(sections) * SECTION.size
        if table_end > HEADER_END:
            raise BzImageError("the kernel's header has no room for more sections")
        result[layout.section_table : table_end] = b"".join(section.pack() for section in sections)
        self._set_sizes(result, sections)
        return bytes(result)

    def _pack(self, address: int, payload: bytes) -> tuple[bytearray, list[Section]]:
        """Return the file without the old payload, and its sections."""
        holder, first = self.holder, self.layout.sections[0].offset
        cut, resume = _up(self.layout.payload, PAGE), self.end // PAGE * PAGE
        if not holder.address < cut < resume < holder.address + holder.size:
            raise BzImageError("the payload does not lie amid its section")
        result, sections = bytearray(self.image[:first]), []

        def add(section: Section, data: bytes | bytearray) -> None:
            result.extend(bytes(-len(result) % PAGE))
            padded = data + bytes(-len(data) % SECTOR)
            sections.append(replace(section, offset=len(result), size=len(padded)))
            result.extend(padded)

        for section in self.layout.sections:
            data = self.image[section.offset : section.offset + section.size]
            if section is holder:
                head = replace(holder, name=b".head", virtual=resume - holder.address)
                add(head, data[: cut - holder.address])
                tail = replace(holder, address=resume, virtual=holder.address + holder.virtual - resume)
                add(tail, data[resume - holder.address :])
            else:
                add(section, data)
        added = Section(name=NAME, virtual=len(payload), address=address, size=0, offset=0, flags=READ_ONLY_DATA)
        add(added, payload)
        return result, sections

    def _set_sizes(self, result: bytearray, sections: list[Section]) -> None:
        """Set what the headers say of the layout, and take the signature's entry out: the signature is gone."""
        layout, payload = self.layout, sections[-1]
        optional = layout.optional_header
        struct.pack_into("<H", result, word(result, 0x3C) + 6, len(sections))
        struct.pack_into("<I", result, optional + 8, word(result, optional + 8) + payload.size)
        struct.pack_into("<I", result, optional + 56, _up(payload.address + payload.virtual, PAGE))
        struct.pack_into("<I", result, optional + 64, 0)  # CheckSum: firmware reads none
        struct.pack_into("<II", result, optional + CERTIFICATES, 0, 0)
        struct.pack_into("<I", result, SYSTEM_SIZE, (len(result) - layout.setup) // 16)
        struct.pack_into("<II", result, PAYLOAD, payload.offset - layout.setup, payload.virtual)


def _up(value: int, to: int) -> int:
    return -(-value // to) * to


def _references(image: bytes, layout: BzImage, start: int, end: int) -> list[int]:
    """Return where the instructions ``lea payload(%rip), register`` have their distance.

    Raises:
        BzImageError: there are others than the expected number, or something else points at the payload.
    """
    found = [
        at
        for at in range(start, end - 3)
        if at + 4 + int.from_bytes(image[at : at + 4], "little", signed=True) == layout.payload
    ]
    lea = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]", re.DOTALL)
    if len(found) != REFERENCES or not all(lea.fullmatch(image[at - 3 : at]) for at in found):
        places = ", ".join(f"{at:#x}" for at in found) or "none"
        raise BzImageError(f"the payload is not referred to by {REFERENCES} instructions, but at: {places}")
    return found


def _lengths(image: bytes, layout: BzImage, start: int, end: int) -> int:
    """Return where the decompressor keeps the payload's length, which the plain length follows.

    Raises:
        BzImageError: the length is not there exactly once.
    """
    both = struct.pack("<II", layout.payload_size, layout.plain_size)
    if image.count(both[:4], start, end) != 1 or image.count(both, start, end) != 1:
        raise BzImageError("the lengths of the payload are not where the decompressor is expected to keep them")
    return image.index(both, start, end)
