"""Remembers compressed segments by their content: of two releases that are much the same, little is compressed twice.

A frame depends on the segment, the compressor and its options alone, so one that was made before is the one that
would be made again. Frames lie in the builder's cache as files that appear by one rename and never change.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from hostctl.durable import sha256_file, write_file
from hostctl.payload.pack import Compressor


def cached(compress: Compressor, folder: Path, identity: str) -> Compressor:
    """Return a compressor that asks ``folder`` first.

    Args:
        compress: makes the frames that are not there yet.
        folder: of the frames; it is made if it does not exist.
        identity: stands for everything besides the segment that decides a frame: program, version and options.
    """

    def from_cache(sources: Path, frames: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {path: folder / _name(path, identity) for path in sorted(sources.iterdir())}
        with tempfile.TemporaryDirectory(dir=frames.parent, prefix=".frames-") as scratch:
            fresh, made = Path(scratch, "plain"), Path(scratch, "made")
            fresh.mkdir()
            made.mkdir()
            for path, frame in wanted.items():
                if not frame.exists():
                    os.link(path, fresh / path.name)
            if any(fresh.iterdir()):
                compress(fresh, made)
            for path, frame in wanted.items():
                if (new := made / path.name).exists():
                    write_file(frame, new.read_bytes())
                else:
                    os.utime(frame)  # in use: pruning takes the longest unused
                (frames / path.name).write_bytes(frame.read_bytes())

    return from_cache


def _name(segment: Path, identity: str) -> str:
    return hashlib.sha256(f"{identity}:{sha256_file(segment)}".encode()).hexdigest()
