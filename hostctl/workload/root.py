"""What the root file system of a workload is made of: the file ``root.json`` of its bundle.

Pure. It is made from the workload when a generation is staged (:mod:`hostctl.workload.root_plan`), and read by
:mod:`hostctl.workload.roots`, which makes the root of it. Equal files mean equal roots, so one that is laid already is
told by its bytes. What a pass imports costs each boot time, so this knows nothing of declarations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from hostctl.errors import HostctlError

FILE = "root.json"
LOCALTIME = "localtime"
"""File of the bundle with the rules of the workload's time zone."""
ZONES = "/usr/share/zoneinfo"
BASE, TOP, POINTS = "base", "top", "points"
MAX_BYTES = 1 << 20


class RootPlanError(HostctlError):
    """What a workload's root is made of cannot be read."""

    id = "root-plan"


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Mount points that an image may lack, by their paths in it."""

    folders: tuple[str, ...] = ()
    """Outer before inner."""
    empty: tuple[str, ...] = ()
    """Files, in these folders or at the top."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RootPlan:
    """A root file system."""

    first_id: int
    """The user id, on the host, of the container's user 0."""
    files: Mapping[str, str]
    """The EROFS file of each layer, of all of its images, by the layer's short name."""
    layers: tuple[str, ...]
    """Names of the layers of its root, lowest first."""
    writable: bool
    """Whether it may be changed; what is written to it is gone with the run."""
    folders: tuple[str, ...]
    """Mount points that the image may lack, outer before inner."""
    empty: tuple[str, ...]
    """Files that are mount points."""
    zone: str = ""
    """Where the rules of its time zone lie by name, if it has one."""
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the layers, lowest first, of the images that it is shown besides, by the name of their mount point."""
    points: Mapping[str, Points] = field(default_factory=dict)
    """What is mounted in these, by the same name."""

    @property
    def lower(self) -> tuple[str, ...]:
        """The folders that its overlay lies over, highest first, by their names in the workload's own folder.

        The lowest holds the mount points that the image may lack; with a time zone, one above all of them has what the
        image may have otherwise.
        """
        return (*((TOP,) if self.zone else ()), *reversed(self.layers), BASE)


def encode(wanted: RootPlan) -> bytes:
    """Return the bytes of ``root.json``; equal plans give equal bytes."""
    return (json.dumps(asdict(wanted), indent=1, sort_keys=True) + "\n").encode()


def decode(data: bytes) -> RootPlan:
    """Return what ``root.json`` holds.

    Raises:
        RootPlanError: it is anything else than :func:`encode` makes; an earlier one had no ``points``.
    """
    if len(data) > MAX_BYTES:
        raise RootPlanError("the root file system's plan cannot be read", details=f"more than {MAX_BYTES} bytes")
    try:
        found = json.loads(data)
        made = RootPlan(
            first_id=int(found["first_id"]),
            files={_name(name): _path(file) for name, file in found["files"].items()},
            layers=tuple(map(_name, found["layers"])),
            writable=bool(found["writable"]),
            folders=tuple(map(_path, found["folders"])),
            empty=tuple(map(_path, found["empty"])),
            zone=_path(found["zone"]) if found["zone"] else "",
            images={_name(where): tuple(map(_name, names)) for where, names in found["images"].items()},
            points={_name(where): _points(each) for where, each in found.get("points", {}).items()},
        )
        _check(made)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RootPlanError("the root file system's plan cannot be read", details=str(error)) from error
    return made


def _points(found: Mapping[str, Iterable[object]]) -> Points:
    return Points(folders=tuple(map(_path, found["folders"])), empty=tuple(map(_path, found["empty"])))


def _check(made: RootPlan) -> None:
    if not {*made.layers, *(name for names in made.images.values() for name in names)} <= {*made.files}:
        raise ValueError("a layer has no file")
    if not made.layers or not 0 < made.first_id < 1 << 32:
        raise ValueError("no layers, or no ids")


def _name(text: object) -> str:
    """Return the name of a folder of ours: hexadecimal."""
    if not isinstance(text, str) or not text or len(text) > 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text!r} is no name")
    return text


def _path(text: object) -> str:
    """Return an absolute path without ``..``."""
    if not isinstance(text, str) or not text.startswith("/") or "\0" in text or ".." in PurePosixPath(text).parts:
        raise ValueError(f"{text!r} is no path")
    return text
