"""The agent's method that makes an image of what a workload has written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hostctl.agent import event_log, exclusive, images, overview, pausing
from hostctl.agent.bus import Call, Method
from hostctl.agent.image_service import document
from hostctl.agent.machine import Machine, workload_unit
from hostctl.agent.pausing import FREEZER, Freezer
from hostctl.errors import UsageError
from hostctl.image import lookup
from hostctl.image.commit import Layer, Words, commit
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.oci import LAYER_BYTES
from hostctl.layout import HostLayout
from hostctl.workload.identity import range_start
from hostctl.workload.instance import name_of
from hostctl.workload.upper import Packed, UpperError, pack

ROOM = 3
"""The layer is on the disk thrice for a while: as it is read, as mkfs.erofs sets it aside, and as it is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked for besides workload and name."""

    words: Words
    pause: bool


def decode(text: str) -> Request:
    """Return the request: a JSON object that may have message, author and pause.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(text)
        message, author, pause = found.pop("message", ""), found.pop("author", ""), found.pop("pause", True)
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError("the request is no object") from error
    if found or not isinstance(message, str) or not isinstance(author, str) or not isinstance(pause, bool):
        raise UsageError("the request may have message, author and pause, two texts and a truth")
    return Request(words=Words(message=message, author=author), pause=pause)


class CommitService:
    """Commits the workloads of the machine below a layout."""

    def __init__(
        self, layout: HostLayout, machine: Machine, *, freezer: Freezer = FREEZER, make: MakeErofs = make_erofs
    ) -> None:
        self._layout, self._machine, self._freezer, self._make = layout, machine, freezer, make

    def commit(self, call: Call) -> str:
        """Make an image of a workload's image and what it has written: a name, or nothing, and an object.

        The object may have message, author and pause. Returns the image, and what could not be kept.
        """
        name, target, text = call.arguments
        request, reference = decode(text), lookup.reference(target) if target else None
        if reference is not None and reference.digest:
            raise UsageError(f"{reference} has a digest; what is committed gets its own", hint="give a name with a tag")
        stored = overview.require(name, self._layout)
        name = stored.record.called(name)
        key = stored.record.key(name)
        upper = self._upper(name, key)
        with exclusive.lock(self._layout):
            store = images.open_store(self._layout, images.declared(self._layout))
            base = store.get(stored.record.images[name_of(key)].digest)
            if base is None:
                raise UpperError(f"the image of workload {name} is not here any more")
            with tempfile.TemporaryDirectory(dir=store.clean()) as scratch:
                folder = Path(scratch)
                call.notify(f"reading what {name} has written")
                with self._still(key) if request.pause else nullcontext():
                    packed = _pack(upper, range_start(stored.record.range_of(key)), folder / "layer.tar")
                call.notify("making the image")
                layer = Layer(
                    path=folder / "layer.tar", diff_id=packed.diff_id, size=packed.size, changed=packed.newest
                )
                wanted = str(reference) if reference else None
                image = commit(
                    store,
                    base,
                    layer if packed.entries else None,
                    wanted,
                    request.words,
                    folder / "layout",
                    make=self._make,
                )
        event_log.write("commit", name, image=image.id)
        return json.dumps({**document(image), "skipped": list(packed.skipped)})

    def _still(self, key: str) -> AbstractContextManager[None]:
        return pausing.still(key, self._layout, self._machine, self._freezer)

    def _upper(self, name: str, key: str) -> Path:
        """Return the folder with what a workload has written.

        Raises:
            UpperError: nothing can be in it.
            NotRunningError: it is stopped.
        """
        declaration = images.declared(self._layout)
        known = {str(key): workload for key, workload in declaration.workloads.items()} if declaration else {}
        hint = "`hostctl tag` gives its image another name"
        if known[name_of(key)].read_only:
            raise UpperError(f"workload {name} is read_only, so nothing differs from its image", hint=hint)
        unit = workload_unit(key)
        state = self._machine.states([unit]).get(unit)
        if state is None or not state.is_up:
            raise overview.NotRunningError(f"workload {name} is not running", hint="what it wrote is gone with its run")
        return self._layout.workloads / key / "upper"

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        takes = ("name", "reference", "request")
        return (Method(name="Commit", handler=self.commit, strings=3, root_only=True, takes=takes),)


def _pack(upper: Path, first_id: int, target: Path) -> Packed:
    """Write the layer of an upper folder to a file."""
    limit = min(LAYER_BYTES, shutil.disk_usage(target.parent).free // ROOM)
    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with target.open("xb") as out:
            packed = pack(descriptor, first_id, out, limit=limit)
        require_same(upper, descriptor)
    except OSError as error:
        raise UpperError("what was written cannot be read whole", details=str(error)) from error
    else:
        return packed
    finally:
        os.close(descriptor)


def require_same(upper: Path, descriptor: int) -> None:
    """Refuse a folder that is another one by now: the end of a run lays an empty one."""
    try:
        same = os.path.samestat(upper.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        same = False
    if not same:
        raise UpperError("the workload ended meanwhile, so what it had written is gone")
