"""How a guest's disk is attached: as it is, or through filters that log its writes, fail, or are slow.

Pure: block nodes for QEMU's `-blockdev`, lowest first. Filters sit above the image, so their sectors are the guest's,
and they may differ between a machine and its snapshot. What is made to fail does not reach the log. A restored
machine's log begins with its first write: it lies over the snapshot's frozen disk, from which replaying it starts.
Sources: QEMU's block-core.json (BlockdevOptionsBlklogwrites, BlkdebugInjectErrorOptions, ThrottleLimits).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SECTOR = 512
NODE = "disk"
"""Name of the node that the guest's disk device uses."""
THROTTLE_GROUP = "disk-limits"


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectedError:
    """A request that touches ``sector`` of the guest's disk fails; guests see every error as EIO.

    Args:
        sector: of 512 bytes; none fails every request of the kind.
        kind: which requests fail.
        once: only the first one does.
        code: what the filter reports to QEMU.
    """

    sector: int | None
    kind: Literal["read", "write", "flush"] = "write"
    once: bool = True
    code: int = errno.EIO


@dataclass(frozen=True, kw_only=True, slots=True)
class Throttle:
    """Limits of a slow disk; 0 is none. With requests one after the other, ``iops`` of 3 is a latency of 333 ms."""

    iops: int = 0
    bytes_per_second: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """The filters between a guest and its disk."""

    log: Path | None = None
    """Where to log its writes; the file is made anew when a machine starts."""
    errors: tuple[InjectedError, ...] = ()
    throttle: Throttle | None = None


PLAIN = Attachment()


def _rule(error: InjectedError) -> Mapping[str, object]:
    rule: dict[str, object] = {"event": "none", "iotype": error.kind, "errno": error.code, "once": error.once}
    return rule if error.sector is None else {**rule, "sector": error.sector}


def nodes(disk: Path, attachment: Attachment) -> list[dict[str, object]]:
    """Return the block nodes of a qcow2 disk with its filters; the last is called :data:`NODE`."""
    chain: list[dict[str, object]] = [
        {"driver": "qcow2", "file": {"driver": "file", "filename": str(disk), "discard": "unmap"}}
    ]
    if attachment.throttle is not None:
        chain.append({"driver": "throttle", "throttle-group": THROTTLE_GROUP, "file": ""})
    if attachment.log is not None:
        log = {"driver": "file", "filename": str(attachment.log)}
        chain.append({"driver": "blklogwrites", "log": log, "log-sector-size": SECTOR, "file": ""})
    if attachment.errors:
        chain.append({"driver": "blkdebug", "image": "", "inject-error": [*map(_rule, attachment.errors)]})
    for index, node in enumerate(chain):
        node["discard"] = "unmap"
        node["node-name"] = NODE if index == len(chain) - 1 else f"{NODE}{index}"
        node.update({key: f"{NODE}{index - 1}" for key in ("file", "image") if node.get(key) == ""})
    return chain


def disk_arguments(disk: Path, attachment: Attachment) -> list[str]:
    """Return QEMU's arguments for a disk: its nodes and the device, which reports errors to the guest."""
    words: list[str] = []
    if attachment.throttle is not None:
        limits = {
            "qom-type": "throttle-group",
            "id": THROTTLE_GROUP,
            "limits": {"iops-total": attachment.throttle.iops, "bps-total": attachment.throttle.bytes_per_second},
        }
        words += ["-object", json.dumps(limits)]
    for node in nodes(disk, attachment):
        words += ["-blockdev", json.dumps(node)]
    device = f"virtio-blk-pci,drive={NODE},bootindex=1,werror=report,rerror=report"
    return [*words, "-device", device]
