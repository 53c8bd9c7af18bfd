"""A delta leads from one release to another, is small where little changed, and says so in few bytes."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostctl.compose import cpio
from hostctl.payload.apply import apply, missing
from hostctl.payload.boot_image import read_boot_image
from hostctl.payload.delta import Recipe, Ways, chosen, make_delta
from hostctl.payload.erofs import MAGIC, read_erofs
from hostctl.payload.index import Index, Method, Range, Reference, decode_index
from hostctl.payload.likely import joined, merged
from hostctl.payload.pack import Files, Packed, PackError
from hostctl.payload.parts import LayoutError, Part, cover, likeness
from hostctl.payload.stored import StoredSegments

BLOCK = 4096
SIZE = 64 << 10


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311 - test data


def program(length: int, seed: int, base: int = 0) -> bytes:
    """Return bytes like those of a program: every 16th a small number that depends on an address."""
    data = bytearray(noise(length, seed))
    for place in range(0, length - 4, 16):
        data[place : place + 4] = struct.pack("<I", base + place)
    return bytes(data)


# --- an image as mkfs.erofs makes it: one folder, files with their last bytes behind the inode ------------------------


def _inode(inline: bool, mode: int, size: int, block: int) -> bytes:
    return struct.pack("<HHHHIIIIHHI", (2 if inline else 0) << 1, 0, mode, 1, size, 0, block, 0, 0, 0, 0)


def _folder(entries: Mapping[str, tuple[int, int]]) -> bytes:
    names = sorted(entries)
    place, heads, texts = 12 * len(names), b"", b""
    for name in names:
        heads += struct.pack("<QHBB", entries[name][0], place + len(texts), entries[name][1], 0)
        texts += name.encode()
    return heads + texts


def erofs(files: Mapping[str, bytes]) -> bytes:
    """Return an image with ``files`` in its root folder."""
    numbers: dict[str, tuple[int, int]] = {".": (36, 2), "..": (36, 2)}
    meta, blocks = bytearray(), b""
    at = 36 * 32
    folder_room = 64 + sum(12 + len(name) for name in files)
    place = -(-(at + 32 + folder_room) // 32)
    inodes: dict[int, tuple[str, int]] = {}
    for name in sorted(files):
        tail = len(files[name]) % BLOCK
        if place * 32 % BLOCK + 32 + tail > BLOCK:
            place = -(-place * 32 // BLOCK) * BLOCK // 32
        inodes[place] = (name, tail)
        numbers[name] = (place, 1)
        place = -(-(place * 32 + 32 + tail) // 32)
    meta = bytearray(-(-place * 32 // BLOCK) * BLOCK)
    first = len(meta) // BLOCK
    root = _folder(numbers)
    meta[at : at + 32 + len(root)] = _inode(True, 0o40755, len(root), 0) + root
    struct.pack_into("<I8xBxH24xI", meta, 1024, MAGIC, 12, 36, 0)
    for number, (name, tail) in inodes.items():
        data = files[name]
        block = first + len(blocks) // BLOCK
        inode = _inode(True, 0o100644, len(data), block) + data[len(data) - tail :]
        meta[number * 32 : number * 32 + len(inode)] = inode
        blocks += data[: len(data) - tail]
    return bytes(meta) + blocks


def uki(kernel: bytes, initrd: bytes, cmdline: bytes) -> bytes:
    """Return a PE file with the sections of a boot image."""
    contents = {b".linux": kernel, b".initrd": initrd, b".cmdline": cmdline}
    head = bytearray(512)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, 64)
    struct.pack_into("<4sHH12xHH", head, 64, b"PE\0\0", 0x8664, len(contents), 0, 0)
    body = b""
    for number, (name, data) in enumerate(contents.items()):
        offset = len(head) + len(body)
        struct.pack_into("<8sIIII16x", head, 88 + 40 * number, name, len(data), offset, len(data), offset)
        body += data
    return bytes(head) + body


def release(folder: Path, files: Mapping[str, bytes], kernel: bytes) -> Files:
    folder.mkdir()
    initrd = cpio.archive([cpio.regular("module.ko", files["module.ko"])])
    made = Files(root=folder / "root", uki=folder / "uki")
    made.root.write_bytes(erofs(files))
    made.uki.write_bytes(uki(kernel, initrd, b"roothash=" + str(len(files)).encode()))
    return made


BASE = {
    **{f"file-{number}": noise(9000 + 100 * number, number) for number in range(30)},
    "module.ko": program(150_000, 50, 1000),
    "large": noise(300_000, 51),
}
KERNEL = program(200_000, 52, 5000)


def applied(index: Index, packed: Packed, old: Files, folder: Path) -> dict[str, bytes]:
    with ExitStack() as stack:
        store = stack.enter_context(packed.segments.open("rb"))
        targets = {name: stack.enter_context((folder / f"new-{name}").open("w+b")) for name in ("root", "uki")}
        references = {
            Reference.OLD_ROOT: stack.enter_context(old.root.open("rb")).fileno(),
            Reference.OLD_UKI: stack.enter_context(old.uki.open("rb")).fileno(),
            Reference.NEW_ROOT: targets["root"].fileno(),
        }

        def ranges(start: int, end: int) -> Iterator[bytes]:
            yield os.pread(store.fileno(), end - start, start)

        for name, target in targets.items():
            wanted = missing(index, name, target.fileno())
            stored = StoredSegments(wanted, ranges)
            apply(index, name, wanted, stored, references, target.fileno(), lambda _, __: None)
    return {name: (folder / f"new-{name}").read_bytes() for name in targets}


def delta(folder: Path, before: Mapping[str, bytes], after: Mapping[str, bytes], kernel: bytes) -> tuple[Index, Packed]:
    old, new = release(folder / "old", before, KERNEL), release(folder / "new", after, kernel)
    packed = make_delta(old, new, folder, size=SIZE)
    index = decode_index(packed.index.read_bytes())
    made = applied(index, packed, old, folder)
    assert made == {name: path.read_bytes() for name, path in new.by_output.items()}
    return index, packed


def test_one_changed_file_costs_little(tmp_path: Path) -> None:
    after = BASE | {"file-7": b"changed" + BASE["file-7"][7:]}
    index, packed = delta(tmp_path, BASE, after, KERNEL)
    assert packed.bytes < 4000
    assert sum(segment.method is Method.COPY for segment in index) > len(list(index)) // 2


def test_a_file_that_moves_all_others_costs_little(tmp_path: Path) -> None:
    _, packed = delta(tmp_path, BASE, BASE | {"added": noise(5000, 99)}, KERNEL)
    assert packed.bytes < 5000 + 6000


def test_a_program_whose_addresses_moved_is_added(tmp_path: Path) -> None:
    moved = program(200_000, 52, 5100)
    index, packed = delta(tmp_path, BASE, BASE | {"module.ko": program(150_000, 50, 1300)}, moved)
    assert {segment.method for segment in index.segments("uki")} >= {Method.ADD}
    assert packed.bytes < 40_000


def test_what_the_initrd_shares_with_the_new_root_is_not_sent_twice(tmp_path: Path) -> None:
    fresh = noise(150_000, 77)
    index, packed = delta(tmp_path, BASE, BASE | {"module.ko": fresh}, KERNEL)
    assert 150_000 < packed.bytes < 165_000
    used = {part.source for segment in index.segments("uki") for part in segment.ranges}
    assert Reference.NEW_ROOT in used


def test_releases_that_nobody_can_read_have_a_delta_too(tmp_path: Path) -> None:
    old, new = (Files(root=tmp_path / f"{name}.root", uki=tmp_path / f"{name}.uki") for name in ("old", "new"))
    for files in (old, new):
        files.root.write_bytes(noise(200_000, 1))
        files.uki.write_bytes(noise(1000, 2))
    new.root.write_bytes(noise(100_000, 1) + b"inserted" + noise(200_000, 1)[100_000:])
    packed = make_delta(old, new, tmp_path, size=SIZE)
    made = applied(decode_index(packed.index.read_bytes()), packed, old, tmp_path)
    assert made["root"] == new.root.read_bytes()
    assert packed.bytes < 4000


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    files = Files(root=tmp_path / "root", uki=tmp_path / "uki")
    files.root.write_bytes(b"")
    files.uki.write_bytes(b"x")
    with pytest.raises(PackError):
        make_delta(files, files, tmp_path)


def way(added: int | None, other: int | None, weight: int = 10) -> Ways:
    recipes = {
        name: None if size is None else Recipe(method=method, ranges=(), stored=bytes(size))
        for name, method, size in (("add", Method.ADD, added), ("other", Method.ZSTD, other))
    }
    return Ways(output="root", offset=0, length=1, sha256="", weight=weight, **recipes)


def test_the_time_for_additions_goes_where_they_save_most() -> None:
    ways = [way(5, 50), way(5, 90), way(5, None), way(None, 9), way(60, 50), way(5, 95, 11)]
    methods = "".join("a" if recipe.method is Method.ADD else "z" for recipe in chosen(ways, 30))
    assert methods == "aaazzz"
    assert [recipe.method for recipe in chosen(ways, 10**6)].count(Method.ADD) == 4


# --- layouts --------------------------------------------------------------------------------------------------------


def test_the_files_of_a_root_are_found() -> None:
    image = erofs(BASE)
    found = {
        content.name: b"".join(image[offset : offset + length] for offset, length in content.stretches)
        for content in read_erofs(image).contents
    }
    assert found == BASE


def test_the_files_of_a_boot_image_are_found() -> None:
    image = uki(b"K" * 3000, cpio.archive([cpio.regular("a", b"x" * 1000), cpio.regular("b", b"y" * 600)]), b"c" * 600)
    found = {part.name: image[part.offset : part.end] for part in read_boot_image(image).parts}
    assert found[".linux"] == b"K" * 3000
    assert (found["a"], found["b"]) == (b"x" * 1000, b"y" * 600)


@pytest.mark.parametrize("image", [b"", b"MZ", bytes(5000), erofs(BASE)[:BLOCK], erofs({"a": b"b"})[:1200]])
def test_what_is_no_image_is_no_layout(image: bytes) -> None:
    for read in (read_erofs, read_boot_image):
        with pytest.raises(LayoutError):
            read(image)


@settings(max_examples=50, deadline=None)
@example(changes=[(1161, 16)])
@given(changes=st.lists(st.tuples(st.integers(1024, 4095), st.integers(0, 255)), max_size=8))
def test_a_damaged_image_is_a_layout_or_an_error(changes: list[tuple[int, int]]) -> None:
    image = bytearray(erofs({name: BASE[name] for name in ("file-1", "file-2")}))
    for place, value in changes:
        image[place] = value
    try:
        layout = read_erofs(bytes(image))
    except LayoutError:
        return
    assert sum(part.length for part in layout.parts) == len(image)


def test_parts_cover_everything_and_what_is_between_has_its_neighbours_name() -> None:
    parts = cover([Part(offset=5, length=5, name="b"), Part(offset=7, length=9, name="late")], 20)
    assert [(part.offset, part.length, part.name) for part in parts] == [
        (0, 5, "after "),
        (5, 5, "b"),
        (10, 10, "after b"),
    ]
    assert likeness("libkrb5.so.3.2") == likeness("libkrb5.so.3.10")


def part_of(offset: int, length: int, source: Reference = Reference.OLD_ROOT) -> Range:
    return Range(source=source, offset=offset, length=length)


def test_ranges_are_put_together_in_the_order_of_their_use() -> None:
    assert joined([part_of(0, 5), part_of(5, 5), part_of(9, 1)]) == (part_of(0, 10), part_of(9, 1))
    wanted = [part_of(90_000, 10), part_of(0, 10), part_of(5, 10), part_of(3, 3, Reference.OLD_UKI)]
    assert merged(wanted, 9) == (part_of(90_000, 10), part_of(0, 15), part_of(3, 3, Reference.OLD_UKI))
    assert merged(wanted, 2) == (part_of(0, 90_010), part_of(3, 3, Reference.OLD_UKI))
    assert merged(wanted, 9, limit=20) == (part_of(90_000, 10), part_of(0, 10))
