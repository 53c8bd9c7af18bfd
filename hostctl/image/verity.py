"""fs-verity on layers: the kernel then refuses writes and reports what changed on the disk. Linux only.

Where a file system has none, a layer has a SHA-256 of the file instead, which is only looked at when somebody asks.
Source: Linux, Documentation/filesystems/fsverity.rst and include/uapi/linux/fsverity.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from hashlib import file_digest
from pathlib import Path

ENABLE = 0x40806685  # _IOW('f', 133, struct fsverity_enable_arg)
MEASURE = 0xC0046686  # _IOWR('f', 134, struct fsverity_digest)
_ARGUMENT = struct.Struct("=IIIIQIIQ88x")  # version, hash, block size, salt size and place, signature size, -, place
_DIGEST = struct.Struct("=HH")  # algorithm, size; the digest follows
SHA256 = 1
BLOCK = 4096
WITHOUT = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What a kernel or a file system without fs-verity answers; EINVAL is its own block size."""


def enable(descriptor: int) -> bool:
    """Protect the file behind a descriptor that only reads; tell whether its file system can."""
    try:
        fcntl.ioctl(descriptor, ENABLE, _ARGUMENT.pack(1, SHA256, BLOCK, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno == errno.EEXIST:
            return True
        if error.errno in WITHOUT:
            return False
        raise
    return True


def measure(descriptor: int) -> str:
    """Return the digest ``sha256:…`` of a protected file's tree; empty when it is not protected."""
    buffer = bytearray(_DIGEST.pack(0, 32) + bytes(32))
    try:
        fcntl.ioctl(descriptor, MEASURE, buffer)
    except OSError as error:
        if error.errno in (errno.ENODATA, *WITHOUT):
            return ""
        raise
    return f"sha256:{bytes(buffer[_DIGEST.size :]).hex()}"


def record(descriptor: int, *, protect: bool = True) -> str:
    """Protect a file if that is possible, and return the line that :func:`matches` compares with."""
    if protect and enable(descriptor):
        return f"verity {measure(descriptor)}\n"
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return f"file sha256:{file_digest(file, 'sha256').hexdigest()}\n"


def matches(path: Path, line: str) -> bool:
    """Read a whole file and tell whether it is what :func:`record` saw; what the kernel refuses to read is not."""
    kind, _, digest = line.strip().partition(" ")
    try:
        with path.open("rb") as file:
            measured = measure(file.fileno())
            found = f"sha256:{file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        if error.errno == errno.EIO:
            return False
        raise
    return digest == (measured if kind == "verity" else found)
