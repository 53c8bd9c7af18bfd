from __future__ import annotations

import struct

import pytest
from hostctl_qemu.pe import UkiError, profiles, read_uki, sections


def make_pe(parts: dict[str, bytes]) -> bytes:
    """Build a PE file with the given sections, each padded to 512 bytes as linkers do."""
    return make_pe_of(list(parts.items()))


def make_pe_of(parts: list[tuple[str, bytes]]) -> bytes:
    """Build a PE file in which a name may come several times."""
    start, optional = 0x80, 16
    table = start + 24 + optional
    position = -(-(table + 40 * len(parts)) // 512) * 512
    head = bytearray(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", start)).ljust(start, b"\0")
    head += struct.pack("<4sHH12xHH", b"PE\0\0", 0x8664, len(parts), optional, 0) + bytes(optional)
    body = b""
    for name, data in parts:
        padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
        head += struct.pack("<8sIIII16x", name.encode(), len(data), 0, len(padded), position + len(body))
        body += padded
    return bytes(head.ljust(position, b"\0")) + body


def test_uki_parts_come_without_padding() -> None:
    uki = read_uki(make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline": b"root=x quiet\n\0"}))
    assert (uki.kernel, uki.initrd, uki.cmdline) == (b"kernel", b"initrd", "root=x quiet")


def test_missing_section_is_named() -> None:
    with pytest.raises(UkiError, match=r"\.initrd"):
        read_uki(make_pe({".linux": b"kernel", ".cmdline": b"x"}))


BASE = [(".linux", b"kernel"), (".initrd", b"initrd"), (".cmdline", b"root=x")]


def test_of_several_profiles_the_first_is_read() -> None:
    more = [(".profile", b"ID=main"), (".profile", b"ID=recovery"), (".cmdline", b"root=x recovery")]
    uki = read_uki(make_pe_of([*BASE, *more]))
    assert (uki.kernel, uki.cmdline) == (b"kernel", "root=x")
    assert [one[".cmdline"] for one in profiles(make_pe_of([*BASE, *more]))] == [b"root=x", b"root=x recovery"]
    own = [(".profile", b"ID=main"), (".cmdline", b"root=y"), *more[1:]]
    assert read_uki(make_pe_of([*BASE, *own])).cmdline == "root=y"


@pytest.mark.parametrize("twice", [BASE[:1], [(".profile", b"ID=main"), BASE[2], BASE[2]]])
def test_a_section_twice_in_one_profile_is_refused(twice: list[tuple[str, bytes]]) -> None:
    with pytest.raises(UkiError, match="twice"):
        sections(make_pe_of([*BASE, *twice]))


@pytest.mark.parametrize("image", [b"", b"MZ", b"\x7fELF" + bytes(100), b"MZ".ljust(0x3C) + b"\xff\xff\xff\xff"])
def test_other_files_are_refused(image: bytes) -> None:
    with pytest.raises(UkiError):
        sections(image)


def test_every_truncation_is_refused() -> None:
    image = make_pe({".linux": b"k" * 600, ".initrd": b"i", ".cmdline": b"c"})
    for length in range(0, len(image), 7):
        with pytest.raises(UkiError):
            read_uki(image[:length])
