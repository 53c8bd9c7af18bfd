"""Compression of what a build makes, by the locked zstd: which library the builder has cannot change a byte.

One frame without a checksum, since a hash of the whole goes with every file. How many threads work on it does not
change it either (zstd(1), ``-T``).
"""

from __future__ import annotations

from pathlib import Path

from hostctl.compose.tools import ToolsRoot
from hostctl.run import run

LEVEL = 12  # 90 s of -19 buy 6 % on these images
WINDOW_LOG = 23  # 8 MiB: the most that the kernel takes of an initrd, and that a host sets aside for a download


def compress(tools: ToolsRoot, source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` as one zstd frame."""
    words = ["zstd", "--quiet", "--no-check", f"-{LEVEL}", f"--zstd=wlog={WINDOW_LOG}", "-T0", "-o", str(target)]
    run(tools.argv([*words, str(source)], binds=[source.parent, target.parent]))
