"""Applies a payload from files to files, as an updater does to partitions, and prints what it took, as JSON.

`python -m bench.apply_payload INDEX SEGMENTS OLD_ROOT OLD_UKI FOLDER`, a process of its own, so that the memory is
that of applying. What is read comes from the disk, not from the cache; what is written is flushed. With `raw` instead
of an index the first file's bytes are only written: what no update can be faster than.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hostctl.payload.apply import apply
from hostctl.payload.index import OUTPUTS, Reference, decode_index
from hostctl.payload.stored import StoredSegments

CHUNK = 1 << 16  # as it comes from a network


def uncached(path: Path) -> int:
    """Open a file to read it, from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def fresh(path: Path) -> int:
    """Make a file anew."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)


def make(index_path: Path, segments: Path, old_root: Path, old_uki: Path, folder: Path) -> None:
    """Make both outputs in a folder."""
    index = decode_index(index_path.read_bytes())
    store = uncached(segments)
    targets = {name: fresh(folder / name) for name in OUTPUTS}
    references = {
        Reference.OLD_ROOT: uncached(old_root),
        Reference.OLD_UKI: uncached(old_uki),
        Reference.NEW_ROOT: targets["root"],
    }

    def ranges(start: int, end: int) -> Iterator[bytes]:
        for place in range(start, end, CHUNK):
            yield os.pread(store, min(CHUNK, end - place), place)

    for name, target in targets.items():
        wanted = index.segments(name)
        apply(index, name, wanted, StoredSegments(wanted, ranges), references, target, lambda _, __: None)
        os.fsync(target)


def write_only(sources: list[Path], folder: Path) -> None:
    """Write files' bytes and flush them."""
    for source in sources:
        reader, target = uncached(source), fresh(folder / source.name)
        while data := os.read(reader, 1 << 20):
            os.write(target, data)
        os.fsync(target)


def main() -> None:
    """Do it, and print seconds and KiB."""
    words = sys.argv[1:]
    folder = Path(words[-1])
    wall, processor = time.monotonic(), time.process_time()
    if words[0] == "raw":
        write_only([Path(word) for word in words[1:-1]], folder)
    else:
        make(*map(Path, words))
    took = {"wall": time.monotonic() - wall, "processor": time.process_time() - processor}
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({**took, "peak": int(match[1]) if match else 0}))


if __name__ == "__main__":
    main()
