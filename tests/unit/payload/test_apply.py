"""A payload makes its outputs, byte for byte, from wherever it was cut off, in little memory."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from hostctl.payload import difference
from hostctl.payload.apply import apply, missing
from hostctl.payload.frame import raw_dictionary
from hostctl.payload.index import Index, Method, Output, Range, Reference, Segment, decode_index, encode_index
from hostctl.payload.pack import Files, PackError, library_compressor, pack_full
from hostctl.payload.stored import StoredSegments, stretches

SIZE = 1 << 16
MEMORY_LIMIT = 64 << 20


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311 - test data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reader(path: Path) -> Callable[[int, int], Iterator[bytes]]:
    def ranges(start: int, end: int) -> Iterator[bytes]:
        data = path.read_bytes()[start:end]
        yield from (data[place : place + 1000] for place in range(0, len(data), 1000))

    return ranges


def release(folder: Path) -> Files:
    files = Files(root=folder / "root", uki=folder / "uki")
    files.root.write_bytes(noise(SIZE) + bytes(2 * SIZE) + b"end of the root")
    files.uki.write_bytes(noise(1000, 2))
    return files


def make(index: Index, store: Path, output: str, target: int, references: Mapping[Reference, int]) -> list[int]:
    wanted = missing(index, output, target)
    reported: list[int] = []
    stored = StoredSegments(wanted, reader(store))
    apply(index, output, wanted, stored, references, target, lambda _, made: reported.append(made))
    return reported


def test_a_full_payload_makes_the_release(tmp_path: Path) -> None:
    files = release(tmp_path)
    packed = pack_full(files, tmp_path, library_compressor(), size=SIZE)
    index = decode_index(packed.index.read_bytes())
    assert not index.is_delta
    assert index.stored_bytes == packed.segments.stat().st_size < files.root.stat().st_size
    for name, path in files.by_output.items():
        with opened(tmp_path / f"new-{name}") as target:
            reported = make(index, packed.segments, name, target, {})
        assert (tmp_path / f"new-{name}").read_bytes() == path.read_bytes()
        assert reported[-1] == path.stat().st_size


def test_the_same_release_packs_to_the_same_bytes(tmp_path: Path) -> None:
    files = release(tmp_path)
    folders = [tmp_path / "a", tmp_path / "b"]
    packed = []
    for folder in folders:
        folder.mkdir()
        packed.append(pack_full(files, folder, library_compressor(), size=SIZE))
        assert sorted(path.name for path in folder.iterdir()) == ["payload.index", "payload.segments"]
    assert packed[0].index.read_bytes() == packed[1].index.read_bytes()
    assert packed[0].segments.read_bytes() == packed[1].segments.read_bytes()


def test_a_compressor_that_makes_something_else_is_refused(tmp_path: Path) -> None:
    def lie(sources: Path, frames: Path) -> None:
        for path in sources.iterdir():
            data = path.read_bytes()
            (frames / path.name).write_bytes(zstandard.ZstdCompressor().compress(bytes(len(data))))

    with pytest.raises(PackError):
        pack_full(release(tmp_path), tmp_path, lie, size=SIZE)


@pytest.mark.parametrize("kept", [0, 1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE])
def test_what_was_cut_off_goes_on_where_it_was(tmp_path: Path, kept: int) -> None:
    files = release(tmp_path)
    packed = pack_full(files, tmp_path, library_compressor(), size=SIZE)
    index = decode_index(packed.index.read_bytes())
    whole = files.root.read_bytes()
    (tmp_path / "slot").write_bytes(whole[:kept] + noise(len(whole) - kept, 3))
    with opened(tmp_path / "slot") as target:
        reported = make(index, packed.segments, "root", target, {})
        assert len(reported) == len(index.segments("root")) - kept // SIZE
        assert missing(index, "root", target) == ()
        assert make(index, packed.segments, "root", target, {}) == []
    assert (tmp_path / "slot").read_bytes() == whole


def frame(data: bytes, dictionary: bytes = b"") -> bytes:
    given = raw_dictionary(dictionary) if dictionary else None
    return zstandard.ZstdCompressor(level=3, dict_data=given).compress(data)


def delta(folder: Path) -> tuple[Index, Path, Files, Files]:
    """Return a payload with every method, its segments file, and both releases."""
    for name in ("old", "new"):
        (folder / name).mkdir()
    old, new = (Files(root=folder / name / "root", uki=folder / name / "uki") for name in ("old", "new"))
    before, boot = noise(9000), noise(4000, 5)
    old.root.write_bytes(before)
    old.uki.write_bytes(boot)
    moved = before[5000:8000] + before[100:1100]
    near = before[:3000] + b"something new" + before[3000:6000]
    shifted = bytes((byte + 3) % 256 for byte in boot[10:2010]) + b"tail"
    new.root.write_bytes(moved + near)
    new.uki.write_bytes(shifted + moved[:500] + b"!")
    packed = difference.pack([(2000, 4, -7)], bytes([3]) * 2000, b"tail")
    rows = [
        ("root", moved, Method.COPY, [(Reference.OLD_ROOT, 5000, 3000), (Reference.OLD_ROOT, 100, 1000)], b""),
        ("root", near, Method.ZSTD, [(Reference.OLD_ROOT, 0, 6000)], frame(near, before[:6000])),
        ("uki", shifted, Method.ADD, [(Reference.OLD_UKI, 10, 3000)], frame(packed)),
        (
            "uki",
            moved[:500] + b"!",
            Method.ZSTD,
            [(Reference.NEW_ROOT, 0, 600)],
            frame(moved[:500] + b"!", moved[:600]),
        ),
    ]
    segments: dict[str, list[Segment]] = {"root": [], "uki": []}
    store = b""
    for output, data, method, ranges, stored in rows:
        row = segments[output]
        row.append(
            Segment(
                output=output,
                offset=row[-1].offset + row[-1].length if row else 0,
                length=len(data),
                sha256=sha256(data),
                method=method,
                ranges=tuple(Range(source=source, offset=offset, length=size) for source, offset, size in ranges),
                stored_offset=len(store),
                stored_bytes=len(stored),
                stored_sha256=sha256(stored) if stored else "",
            )
        )
        store += stored
    (folder / "segments").write_bytes(store)
    outputs = {
        name: Output(bytes=path.stat().st_size, segments=tuple(segments[name])) for name, path in new.by_output.items()
    }
    index = Index(outputs=outputs, references={Reference.OLD_ROOT: 9000, Reference.OLD_UKI: 4000})
    return index, folder / "segments", old, new


def test_a_delta_makes_the_release_from_the_old_one(tmp_path: Path) -> None:
    index, store, old, new = delta(tmp_path)
    assert decode_index(encode_index(index)) == index
    with (
        opened(old.root) as old_root,
        opened(old.uki) as old_uki,
        opened(tmp_path / "slot") as slot,
        opened(tmp_path / "esp") as esp,
    ):
        references = {Reference.OLD_ROOT: old_root, Reference.OLD_UKI: old_uki, Reference.NEW_ROOT: slot}
        make(index, store, "root", slot, references)
        make(index, store, "uki", esp, references)
    assert (tmp_path / "slot").read_bytes() == new.root.read_bytes()
    assert (tmp_path / "esp").read_bytes() == new.uki.read_bytes()


def test_neighbours_are_read_in_one_request(tmp_path: Path) -> None:
    index = decode_index(pack_full(release(tmp_path), tmp_path, library_compressor(), size=SIZE).index.read_bytes())
    segments = index.segments("root")
    assert stretches(segments) == [(0, segments[-1].stored_end)]
    asked: list[tuple[int, int]] = []

    def ranges(start: int, end: int) -> Iterator[bytes]:
        asked.append((start, end))
        yield from reader(tmp_path / "payload.segments")(start, end)

    wanted = (segments[0], segments[2], segments[3])
    stored = StoredSegments(wanted, ranges)
    whole = (tmp_path / "payload.segments").read_bytes()
    for segment in wanted:
        assert b"".join(stored(segment)) == whole[segment.stored_offset : segment.stored_end]
    assert asked == [(0, segments[0].stored_end), (segments[2].stored_offset, segments[3].stored_end)]


def test_a_difference_carries_into_no_neighbour() -> None:
    old, new = noise(50_000, 8), noise(50_000, 9)
    steps = [(20_000, 5, 7), (0, 3, -100), (20_000, 0, 0)]
    places = [0, 20_007, 19_907]
    parts, differences, extra = [], [], []
    taken = 0
    for place, (add, take, _) in zip(places, steps, strict=True):
        wanted = new[place : place + add]
        differences.append(bytes((b - a) % 256 for a, b in zip(old[place : place + add], wanted, strict=True)))
        extra.append(new[taken : taken + take])
        parts += [wanted, extra[-1]]
        taken += take
    packed = difference.pack(steps, b"".join(differences), b"".join(extra))
    assert difference.apply(packed, bytearray(old), 40_008) == b"".join(parts)


def test_applying_stays_within_its_memory(tmp_path: Path) -> None:
    size, count = 4 << 20, 3
    old = noise(8 << 20, 11)
    (tmp_path / "old").write_bytes(old)
    rows: list[Segment] = []
    store = b""
    for number in range(count):
        data = old[number * 1000 : number * 1000 + size]
        methods = (
            (Method.ZSTD, frame(noise(size, 12 + number), old), noise(size, 12 + number)),
            (Method.ADD, frame(difference.pack([(size, 0, 0)], noise(size, 20), b"")), None),
        )
        method, stored, made = methods[number % 2]
        if made is None:
            moved = bytearray(old[:size])
            difference.add_bytes(moved, noise(size, 20))
            data = bytes(moved)
        else:
            data = made
        segment = Segment(
            output="root", offset=number * size, length=size, sha256=sha256(data), method=method,
            ranges=(Range(source=Reference.OLD_ROOT, offset=0, length=len(old)),), stored_offset=len(store),
            stored_bytes=len(stored), stored_sha256=sha256(stored),
        )  # fmt: skip
        rows.append(segment)
        store += stored
    last = frame(b"uki")
    uki = Segment(
        output="uki", offset=0, length=3, sha256=sha256(b"uki"), method=Method.ZSTD, stored_offset=len(store),
        stored_bytes=len(last), stored_sha256=sha256(last),
    )  # fmt: skip
    outputs = {"root": Output(bytes=count * size, segments=tuple(rows)), "uki": Output(bytes=3, segments=(uki,))}
    (tmp_path / "index").write_bytes(encode_index(Index(outputs=outputs, references={Reference.OLD_ROOT: len(old)})))
    (tmp_path / "store").write_bytes(store + last)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) * 1024 < MEMORY_LIMIT


PROGRAM = """
import os, re, sys
from pathlib import Path
import tuf.ngclient, urllib3  # what an updater has in memory besides
from hostctl.payload.apply import apply
from hostctl.payload.index import Reference, decode_index
folder = Path(sys.argv[1])
index = decode_index((folder / "index").read_bytes())
store = os.open(folder / "store", os.O_RDONLY)
def stored(segment):
    for place in range(segment.stored_offset, segment.stored_end, 65536):
        yield os.pread(store, min(65536, segment.stored_end - place), place)
old = os.open(folder / "old", os.O_RDONLY)
slot = os.open(folder / "slot", os.O_RDWR | os.O_CREAT)
apply(index, "root", index.segments("root"), stored, {Reference.OLD_ROOT: old}, slot, lambda segment, made: None)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
