"""Verifies a dm-verity root, data and whole tree, against its root hash, without device-mapper.

What was hashed once is remembered by where it comes from, so that the next disk that shares it costs little.
Format: https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity (version 1: the salt is hashed before the data).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from hostctl_qemu.gpt import Partition
from hostctl_qemu.view import DiskView, Fingerprint

SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")
SIGNATURE = b"verity\0\0"
BLOCK = 4096
DIGEST = 32
PER_BLOCK = BLOCK // DIGEST
CHUNK = 1 << 20  # how much is hashed, and remembered, at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Superblock:
    """What a tree says about itself."""

    blocks: int
    salt: bytes


class VerityError(Exception):
    """A root does not verify; the text says why. It never leaves the checker."""


def read_superblock(disk: DiskView, tree: Partition) -> Superblock:
    """Return the parameters of a tree.

    Raises:
        VerityError: there is no tree of the only kind that we make.
    """
    block = disk.read(tree.start, 512)
    fields = SUPERBLOCK.unpack_from(block)
    signature, version, kind, _, algorithm, data_block, hash_block, blocks, salt_size, salt = fields
    if signature != SIGNATURE:
        raise VerityError("there is no verity superblock")
    if (version, kind, algorithm.rstrip(b"\0"), data_block, hash_block) != (1, 1, b"sha256", BLOCK, BLOCK):
        raise VerityError("the verity superblock is of another kind")
    if salt_size > len(salt) or not blocks:
        raise VerityError("the verity superblock makes no sense")
    return Superblock(blocks=blocks, salt=salt[:salt_size])


def levels(blocks: int) -> list[int]:
    """Return the number of hash blocks of each level of a tree over ``blocks``, the lowest first."""
    counts = [-(-blocks // PER_BLOCK)]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // PER_BLOCK))
    return counts


class VerityChecker:
    """Verifies roots of many disks that share most of their contents."""

    def __init__(self) -> None:
        self._digests: dict[tuple[bytes, Fingerprint], bytes] = {}

    def check(self, disk: DiskView, data: Partition, tree: Partition, root_hash: str) -> None:
        """Verify every block of a root and of its tree.

        Raises:
            VerityError: one of them is not what the root hash stands for.
        """
        superblock = read_superblock(disk, tree)
        counts = levels(superblock.blocks)
        if superblock.blocks * BLOCK > data.size or (1 + sum(counts)) * BLOCK > tree.size:
            raise VerityError("the root or its tree does not fit its partition")
        position, expected = tree.start + BLOCK, bytes.fromhex(root_hash)
        sizes = [superblock.blocks, *counts]
        for level in reversed(range(len(counts))):  # the top level lies first
            length = counts[level] * BLOCK
            if self._hash(disk, position, length, superblock.salt) != expected:
                raise VerityError("a block of the tree does not match the one above it")
            expected = disk.read(position, length)[: sizes[level] * DIGEST]
            position += length
        found = self._hash(disk, data.start, superblock.blocks * BLOCK, superblock.salt)
        if found != expected:
            bad = [index for index in range(superblock.blocks) if _differ(found, expected, index)]
            raise VerityError(f"{len(bad)} of {superblock.blocks} blocks of the root are wrong, the first is {bad[0]}")

    def _hash(self, disk: DiskView, start: int, length: int, salt: bytes) -> bytes:
        """Return the digests of all blocks of a range."""
        parts = []
        for place in range(start, start + length, CHUNK):
            size = min(CHUNK, start + length - place)
            key = (salt, disk.fingerprint(place, size))
            digests = self._digests.get(key)
            if digests is None:
                digests = self._digests[key] = _digest_blocks(disk.read(place, size), salt)
            parts.append(digests)
        return b"".join(parts)


def _digest_blocks(data: bytes, salt: bytes) -> bytes:
    start = hashlib.sha256(salt)
    digests = []
    for place in range(0, len(data), BLOCK):
        digest = start.copy()
        digest.update(data[place : place + BLOCK])
        digests.append(digest.digest())
    return b"".join(digests)


def _differ(left: bytes, right: bytes, index: int) -> bool:
    place = slice(index * DIGEST, (index + 1) * DIGEST)
    return left[place] != right[place]
