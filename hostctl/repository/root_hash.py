"""The dm-verity root hash of a file, computed without device-mapper and without writing a tree.

Format: https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity, version 1: SHA-256 of the salt and a block of 4096
bytes; the digests of one level, filled up with zeros to whole blocks, are the data of the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK = 4096


def _level(blocks: Iterable[bytes], salt: bytes) -> bytes:
    start = hashlib.sha256(salt)
    digests = bytearray()
    for block in blocks:
        digest = start.copy()
        digest.update(block)
        digests += digest.digest()
    return bytes(digests)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block.ljust(BLOCK, b"\0")


def root_hash(path: Path, salt: bytes) -> str:
    """Return the root hash of a file, hexadecimal.

    Args:
        path: the file, as long as whole blocks; a shorter last block counts as if it was filled with zeros.
        salt: of the tree.

    Raises:
        OSError: it cannot be read.
    """
    digests = _level(_read(path), salt)
    while len(digests) > hashlib.sha256().digest_size:
        digests = _level((digests[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(digests), BLOCK)), salt)
    return digests.hex()
