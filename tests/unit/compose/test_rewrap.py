"""A kernel's plain contents take the place of the compressed ones, or nothing is changed and the reason is said."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostctl.compose.bzimage import PAGE, BzImageError, decompress, parse
from hostctl.compose.kernel import plain_image
from hostctl.compose.rewrap import BLOCK, rewrap, stored_frame

NOISE = random.Random(1).randbytes(5 * PAGE)  # noqa: S311 - no secret, bytes that cannot be compressed
KERNEL = b"\x7fELF" + NOISE + bytes(5 * PAGE) + b"code" * PAGE + bytes(3 * PAGE) + b"end"
SETUP = 0x2000
LEA = b"\x48\x8d\x35"  # lea distance(%rip), %rsi


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a small bzImage is made of; the defaults are as the kernel's own build makes it."""

    frame: bytes = zstandard.compress(KERNEL * 3, 19)
    plain_size: int = len(KERNEL * 3)
    references: tuple[bytes, ...] = (LEA, b"\x4c\x8d\x3d")
    lengths: int = 1
    protocol: int = 0x20F
    flags: int = 0x7F
    machine: int = 0x8664
    more_sections: int = 0


def make(recipe: Recipe) -> bytes:
    """Return a bzImage: headers, setup code, a head, the payload, code that refers to it, data."""
    payload = recipe.frame + struct.pack("<I", recipe.plain_size)
    text = bytearray(b"\x90" * 700)
    start = SETUP + len(text)
    text += payload
    text += b"\xcc" * (2 * PAGE)
    for opcode in recipe.references:
        text += opcode
        text += struct.pack("<i", start - (SETUP + len(text) + 4))
        text += b"\xcc" * 9
    for _ in range(recipe.lengths):
        text += struct.pack("<II", len(payload), recipe.plain_size)
    text += bytes(-len(text) % PAGE)
    data_at = SETUP + len(text)
    image = bytearray(SETUP) + text + b"data" * 128
    image[:2] = b"MZ"
    image[0x1EF:0x1F2] = b"\xff\xff" + bytes((SETUP // 512 - 1,))
    struct.pack_into("<I", image, 0x1F4, (len(image) - SETUP) // 16)
    struct.pack_into("<H2x4sH", image, 0x1FE, 0xAA55, b"HdrS", recipe.protocol)
    struct.pack_into("<H", image, 0x236, recipe.flags)
    struct.pack_into("<II", image, 0x248, start - SETUP, len(payload))
    sections = [(b".setup", 0x1000, 0x1000), (b".text", SETUP, len(text)), (b".data", data_at, 0x200)]
    sections += [(b".more", data_at, 0x200)] * recipe.more_sections
    struct.pack_into("<I", image, 0x3C, 0x40)
    struct.pack_into("<4sHH12xH", image, 0x40, b"PE\0\0", recipe.machine, len(sections), 160)
    struct.pack_into("<H", image, 0x58, 0x20B)
    struct.pack_into("<I", image, 0x58 + 56, data_at + 2 * PAGE)
    struct.pack_into("<II", image, 0x58 + 144, len(image), 512)  # a signature at the end
    for index, (name, address, size) in enumerate(sections):
        virtual = 2 * PAGE if name == b".data" else size
        struct.pack_into("<8sIIII", image, 0xF8 + 40 * index, name, virtual, address, size, address)
    return bytes(image) + b"signature" * 57


STOCK = make(Recipe())


def loaded(image: bytes) -> bytes:
    """Return a PE file as firmware lays it out in memory."""
    layout = parse(image)
    end = max(section.address + section.virtual for section in layout.sections)
    memory = bytearray(image[:PAGE] + bytes(end - PAGE))
    for section in layout.sections:
        data = image[section.offset : section.offset + min(section.size, section.virtual)]
        memory[section.address : section.address + len(data)] = data
    return bytes(memory)


def referred(memory: bytes, opcode: bytes) -> int:
    """Return the address that the only instruction with this opcode points at."""
    assert memory.count(opcode) == 1
    at = memory.index(opcode) + len(opcode)
    return at + 4 + int.from_bytes(memory[at : at + 4], "little", signed=True)


def test_the_loaded_decompressor_finds_the_same_kernel_in_plain_form() -> None:
    memory = loaded(rewrap(STOCK))
    (address,) = {referred(memory, opcode) for opcode in Recipe().references}
    size, plain_size = struct.unpack_from("<II", memory, memory.index(Recipe().references[1]) + 7 + 9)
    payload = memory[address : address + size]
    assert zstandard.ZstdDecompressor().decompressobj().decompress(payload[:-4]) == KERNEL * 3
    assert plain_size == len(KERNEL * 3) == int.from_bytes(payload[-4:], "little")
    assert KERNEL[:1000] in payload


def test_all_but_the_payload_and_what_points_at_it_is_loaded_as_before() -> None:
    before, after = loaded(STOCK), loaded(rewrap(STOCK))
    layout = parse(STOCK)
    end = layout.payload + layout.payload_size
    assert after[PAGE : layout.payload] == before[PAGE : layout.payload]
    changed = [at for at in range(end, len(before)) if before[at] != after[at]]
    assert len(changed) <= 2 * 4 + 4
    assert parse(rewrap(STOCK)).sections[-1].address >= len(before)


def test_the_headers_describe_the_new_layout() -> None:
    image = rewrap(STOCK)
    layout = parse(image)
    assert decompress(image, layout) == KERNEL * 3
    position = PAGE
    address = PAGE
    for section in layout.sections:
        assert section.address == address, section  # without gaps, as the PE format asks
        assert section.offset >= position
        position = section.offset + section.size
        address = -(-(section.address + section.virtual) // PAGE) * PAGE
    assert position == len(image)
    assert struct.unpack_from("<I", image, 0x58 + 56) == (address,)
    assert struct.unpack_from("<I", image, 0x1F4) == ((len(image) - SETUP) // 16,)
    assert struct.unpack_from("<II", image, 0x58 + 144) == (0, 0)
    assert b"signature" not in image


def test_the_same_kernel_gives_the_same_bytes() -> None:
    assert rewrap(STOCK) == rewrap(bytes(bytearray(STOCK)))


def test_kernels_that_differ_in_a_byte_differ_in_a_byte_of_the_payload() -> None:
    other = bytearray(KERNEL * 3)
    other[len(KERNEL) + 10] ^= 1
    one, two = rewrap(STOCK), rewrap(make(Recipe(frame=zstandard.compress(bytes(other), 19))))
    first, second = (image[parse(image).payload :] for image in (one, two))
    assert sum(a != b for a, b in zip(first, second, strict=True)) == 1


def truncated_frame() -> bytes:
    return Recipe().frame[:-40]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(frame=b"\x1f\x8b" + Recipe().frame), "not compressed by zstd"),
        (Recipe(frame=truncated_frame()), "another size|cannot be decompressed"),
        (Recipe(plain_size=len(KERNEL)), "another size"),
        (Recipe(plain_size=1 << 30), "claims to have"),
        (Recipe(references=(LEA,)), "not referred to by 2"),
        (Recipe(references=(LEA, LEA, LEA)), "not referred to by 2"),
        (Recipe(references=(LEA, b"\x90\x90\xe8")), "not referred to by 2"),
        (Recipe(lengths=0), "lengths"),
        (Recipe(lengths=2), "lengths"),
        (Recipe(protocol=0x20B), "64-bit"),
        (Recipe(flags=0x7E), "64-bit"),
        (Recipe(machine=0xAA64), "PE header"),
        (Recipe(more_sections=2), "no room"),
    ],
)
def test_a_kernel_that_is_built_in_another_way_is_left_as_it_is(recipe: Recipe, said: str) -> None:
    stock = make(recipe)
    with pytest.raises(BzImageError, match=said):
        rewrap(stock)
    image, note = plain_image(stock)
    assert image == stock
    assert "stays compressed" in note


def test_a_rewrapped_kernel_is_not_rewrapped_again() -> None:
    with pytest.raises(BzImageError, match="another place"):
        rewrap(rewrap(STOCK))


def test_a_file_that_is_cut_off_anywhere_is_refused() -> None:
    end = len(STOCK) - len(b"signature" * 57)
    for length in (*range(0, 0x300, 7), *range(0x300, end, 1999)):
        with pytest.raises(BzImageError):
            rewrap(STOCK[:length])


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 0x270), value=st.binary(min_size=1, max_size=8))
@example(at=296, value=b"\0\0\0\x81")
@example(at=296, value=b"\0\0")
def test_damaged_headers_give_an_error_or_the_same_kernel(at: int, value: bytes) -> None:
    image = bytearray(STOCK)
    image[at : at + len(value)] = value
    try:
        result = rewrap(bytes(image))
    except BzImageError:
        return
    assert decompress(result, parse(result)) == KERNEL * 3


@given(
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 3 * BLOCK)), min_size=1, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_a_stored_frame_is_read_back_and_has_no_large_block(parts: list[tuple[bool, int]]) -> None:
    plain = b"".join(bytes(size) if zero else (b"\x01\x02\x03" * size)[:size] for zero, size in parts)
    frame = stored_frame(plain)
    assert zstandard.ZstdDecompressor(max_window_size=BLOCK).decompressobj().decompress(frame) == plain
    assert len(frame) <= len(plain) + 16 + 4 * (len(plain) // BLOCK + 2 * len(parts))


def test_zeros_take_no_room() -> None:
    assert len(stored_frame(bytes(100 * BLOCK))) < 500
