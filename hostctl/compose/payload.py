"""The full payload of a release, compressed by the locked zstd: which library the builder has cannot change a byte.

What is cut how, and what an index is, :mod:`hostctl.payload` knows. Frames have no checksum, since hashes of all
segments are in the index. Each is made by one thread, several side by side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zstandard

from hostctl.compose.frames import cached
from hostctl.compose.tools import ToolsRoot
from hostctl.payload.index import MAX_DECODED
from hostctl.payload.pack import Compressor, Files, pack_full
from hostctl.run import run

LEVEL = 12
INDEX_LEVEL = 19
SUFFIX = ".zst"


def make_payload(tools: ToolsRoot, files: Files, output: Path, frames: Path) -> None:
    """Write the full payload of a release to ``output``, an existing folder; ``frames`` keeps segments for the next."""
    packed = pack_full(files, output, cached(compressor(tools), frames, f"{tools.path.name} -{LEVEL}"))
    # The packer wrote the index with the library; the same index by the locked zstd takes its place.
    plain, frame = output / "index", output / f"index{SUFFIX}"
    frame_bytes = packed.index.read_bytes()
    plain.write_bytes(zstandard.ZstdDecompressor().decompress(frame_bytes, max_output_size=MAX_DECODED))
    _compress(tools, [plain], output, INDEX_LEVEL)
    frame.replace(packed.index)
    plain.unlink()


def compressor(tools: ToolsRoot) -> Compressor:
    """Return what compresses a folder of segments by the zstd of the tools."""

    def compress(sources: Path, frames: Path) -> None:
        paths = sorted(sources.iterdir())
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            groups = [paths[start::workers] for start in range(min(workers, len(paths)))]
            list(pool.map(lambda group: _compress(tools, group, frames, LEVEL), groups))
        for path in frames.iterdir():
            path.rename(path.with_suffix(""))

    return compress


def _compress(tools: ToolsRoot, paths: Sequence[Path], output: Path, level: int) -> None:
    """Compress files, each to a frame that says how long it is, in the folder ``output``."""
    words = ["zstd", "--quiet", "--no-check", "--content-size", "--single-thread", f"-{level}"]
    words += ["--output-dir-flat", str(output), *map(str, paths)]
    run(tools.argv(words, binds=[paths[0].parent, output]))
