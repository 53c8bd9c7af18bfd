"""Copies trees in and out of running workloads: starts :mod:`hostctl.workload.transfer` for each one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hostctl.agent.outcome import Copied
from hostctl.errors import HostctlError
from hostctl.run import ENVIRONMENT, tail
from hostctl.workload import transfer

Mode = Literal["pack", "unpack"]
MAX_PATH = 4096


class CopyError(HostctlError):
    """A tree cannot be copied in or out of a workload."""

    id = "copy-failed"


def copy(
    mode: Mode, pid: int, path: str, descriptor: int, options: Sequence[str] = (), folder: Path | None = None
) -> Copied:
    """Do one transfer.

    Args:
        mode: ``pack`` out of the workload, ``unpack`` into it.
        pid: the workload's first process, on the host; 0 takes ``folder`` instead of a workload's root.
        path: inside the workload, or below the folder.
        descriptor: where the tar stream goes or comes from.
        options: of :func:`hostctl.workload.transfer.main`.
        folder: of the host.

    Raises:
        CopyError: it was refused or cut off.
    """
    if not path or len(path) > MAX_PATH or "\0" in path:
        raise CopyError("that is no path")
    done = subprocess.run(
        [sys.executable, "-I", "-S", transfer.__file__, mode, str(pid), path, *options],
        stdin=descriptor if mode == "unpack" else subprocess.DEVNULL,
        stdout=descriptor if mode == "pack" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=dict(ENVIRONMENT),
        cwd=folder,
        check=False,
    )
    try:
        result = json.loads(done.stderr.splitlines()[-1])
        if "refused" in result:
            raise CopyError(str(result["refused"]))
        return Copied(files=int(result["files"]), skipped=tuple(str(name) for name in result["skipped"]))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CopyError("the copy was cut off", details=tail(done.stderr)) from error
