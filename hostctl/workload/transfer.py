"""Moves file trees as tar streams between a workload and the host, or a volume and a backup.

A program of its own (``python3 -I -S transfer.py MODE PID PATH …``), which the agent starts for one transfer. The
program opens the workload's root folder, enters its user namespace and gives up everything that is more than the
workload's own root user may do; only then does it look at a file. It never enters the mount namespace, so nothing that
lies in the workload is ever loaded or run, and no name service is asked. What it is made of is loaded from beside it
before that, and needs no site packages.

Every path is resolved by openat2(2): below the root for what the caller names, without any symbolic link for what an
archive names. A tree that is changed meanwhile gives a wrong file of the same workload at worst, never one of the
host.
"""

from __future__ import annotations

import json
import os
import resource
import sys

if __name__ == "__main__":  # which has no path but that of the standard library
    sys.path.append(__file__.rsplit("/", 3)[0])

from hostctl.workload.beneath import TransferError, means_contents, split
from hostctl.workload.packing import Packer
from hostctl.workload.unpacking import Unpacker, place

MAX_MEMORY = 256 << 20  # bytes that an archive's headers can make this program use
EXIT_REFUSED = 3


def enter(pid: int) -> int:
    """Open the root folder of a process and become the root user of its user namespace, for good."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if sys.version_info < (3, 12):
        raise TransferError("this interpreter cannot enter a namespace")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    os.setns(namespace, os.CLONE_NEWUSER)
    os.close(namespace)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return root


def _pack(root: int, path: str, *, whole: bool, follow: bool) -> dict[str, object]:
    packer = Packer(os.fdopen(1, "wb", closefd=False), one_file_system=whole)
    packer.add(root, path, "." if means_contents(path) else split(path)[1], follow=follow)
    packer.close()
    return {"files": packer.files, "skipped": packer.skipped[:100]}


def _unpack(root: int, path: str, *, keep_owner: bool, contents: bool, itself: bool) -> dict[str, object]:
    folder, rename, made = place(root, path, contents=contents)
    owner = None if keep_owner else (0, 0)
    unpacker = Unpacker(folder, owner=owner, rename=rename, itself=itself or made)
    unpacker.unpack(os.fdopen(0, "rb", closefd=False))
    return {"files": unpacker.files, "skipped": unpacker.skipped[:100]}


def main(mode: str, pid: int, path: str, *options: str) -> int:
    """Do one transfer; the result, or why there is none, goes to standard error as JSON.

    Args:
        mode: ``pack`` to standard output, ``unpack`` from standard input.
        pid: a process of the workload; 0 is none, and the root is the folder that this program runs in.
        path: below the root.
        options: ``whole`` packs one file system only, ``follow`` what a link at the path leads to below the root,
            ``keep-owner`` takes owners from the archive, ``contents`` says that it is of what is in a folder, which the
            path then is or becomes, ``itself`` that the folder at the path is to be what the archive says of it.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        root = enter(pid) if pid else os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if mode == "pack":
            result = _pack(root, path, whole="whole" in options, follow="follow" in options)
        else:
            keep_owner, contents, itself = (word in options for word in ("keep-owner", "contents", "itself"))
            result = _unpack(root, path, keep_owner=keep_owner, contents=contents, itself=itself)
    except OSError as error:
        result = {"refused": f"{error.filename or path}: {error.strerror or error}"}
    except (TransferError, MemoryError) as error:
        result = {"refused": str(error) or "out of memory"}
    print(json.dumps(result), file=sys.stderr, flush=True)
    return EXIT_REFUSED if "refused" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *sys.argv[4:]))
