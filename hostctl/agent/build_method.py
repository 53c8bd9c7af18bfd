"""The agent's method that builds an image from a Containerfile, in a workload that is there for it alone."""

from __future__ import annotations

import json
import logging
import os
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hostctl.agent import building, copying, event_log, exclusive, execution, generation, images, transient
from hostctl.agent.building import BuildFailedError, Request
from hostctl.agent.bus import Call, Method
from hostctl.agent.exclusive import BusyError, anew
from hostctl.agent.execution import ExecError, Target
from hostctl.agent.generation import Stored
from hostctl.agent.image_service import document
from hostctl.agent.machine import Machine
from hostctl.agent.request import Request as Command
from hostctl.agent.transient_methods import Apply
from hostctl.config.load import parse_host
from hostctl.config.values import ImageReference
from hostctl.errors import HostctlError
from hostctl.image.archive import load_single
from hostctl.image.layers import MakeErofs, make_erofs
from hostctl.image.store import StoredImage
from hostctl.layout import HostLayout

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds that others may change the machine while an image waits to be kept
AGAIN = 1.0
_PAUSE = threading.Event()  # never set: waiting for it is the time between two tries
Result = TypeVar("Result")
Execute = Callable[[Target, Command, HostLayout, Sequence[int]], int]
Copy = Callable[[copying.Mode, int, str, int], object]


def _execute(where: Target, command: Command, layout: HostLayout, descriptors: Sequence[int]) -> int:
    return execution.execute(where, command, layout=layout, descriptors=descriptors)


def patiently(deed: Callable[[], Result], seconds: float = PATIENCE) -> Result:
    """Do what needs the machine's lock, and wait while somebody else has it.

    Raises:
        BusyError: they have it for longer than ``seconds``.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return deed()
        except BusyError:
            if time.monotonic() > end:
                raise
            _PAUSE.wait(AGAIN)


class BuildService:
    """Builds images on the machine below a layout."""

    def __init__(
        self,
        layout: HostLayout,
        machine: Machine,
        apply: Apply,
        *,
        execute: Execute = _execute,
        copy: Copy = copying.copy,
        make: MakeErofs = make_erofs,
    ) -> None:
        self._layout, self._machine, self._apply = layout, machine, apply
        self._execute, self._copy, self._make = execute, copy, make

    def build(self, call: Call) -> str:
        """Build an image, if the declaration says with what: an object, then a tar stream, and two files to write to.

        The object may have tags, needs (the images that the Containerfile names), arguments (NAME=VALUE), target and
        quiet. The stream has the file Containerfile and the folder context. Returns the image with its names.
        """
        request = building.decode(call.arguments[0])
        context, *output = call.descriptors
        name = building.new_name()
        # Before anything is pulled it is known whether it may be.
        text = building.add(self._current().declaration, name)
        building.require_digests(parse_host(text, "host.yaml"), request)
        needed = self._needed(request, call.notify)
        anew(lambda: self._add(name, call.notify))
        try:
            where = self._target(name)
            self._bring(where, request, needed, context, output)
            call.notify("building")
            self._require(where, building.build(request), output)
            self._require(where, building.push(), output)
            call.notify("keeping the image")
            image = patiently(lambda: self._keep(where, request.tags))
        finally:
            self._tidy(name)
        event_log.write("build", image.reference or image.id, kind="image", id=image.id)
        return json.dumps({**document(image), "names": list(map(str, request.tags))})

    def _add(self, name: str, notify: Callable[[str], None]) -> None:
        stored = self._current()
        text = building.add(stored.declaration, name)
        self._apply(text, name, notify, base=stored.record.number, starts={name: True})

    def _current(self) -> Stored:
        stored = generation.current(self._layout)
        if stored is None:
            raise building.BuildNotAllowedError("this host has no declaration yet")
        return stored

    def _target(self, name: str) -> Target:
        bundle = self._current().path / "bundles" / name / "config.json"
        try:
            return execution.target(name, bundle, self._machine)
        except HostctlError as error:
            hint = "its own command has to go on running, as `sleep infinity` does: see examples/buildah"
            raise BuildFailedError("the image that builds does not stay up", details=error.brief, hint=hint) from error

    def _needed(self, request: Request, notify: Callable[[str], None]) -> list[StoredImage]:
        """Return the images that are needed; those that are not here are pulled as any other."""
        with exclusive.lock(self._layout):
            declaration = images.declared(self._layout)
            store = images.open_store(self._layout, declaration)
            registries = images.Registries(layout=self._layout, declaration=declaration, store=store, notify=notify)
            found = []
            for reference in map(ImageReference, request.needs):
                image, reach = store.find(reference), registries.access(reference.registry)
                if image is None or not store.is_signed(image.digest, reach.signer(reference)):
                    image = registries(reference, reference.digest)
                found.append(image)
            return found

    def _bring(
        self, where: Target, request: Request, needed: Sequence[StoredImage], context: int, output: Sequence[int]
    ) -> None:
        """Bring the context and the images that are needed into the workload."""
        from hostctl.image.export import save_stream  # noqa: PLC0415 - only for this method

        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for name in building.folders(request.needs):
                    info = tarfile.TarInfo(name)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            file.seek(0)
            self._copy("unpack", where.pid, building.FOLDER, file.fileno())
        self._copy("unpack", where.pid, building.FOLDER, context)
        store = images.open_store(self._layout, images.declared(self._layout))
        for number, image in enumerate(needed):
            folder = f"{building.FOLDER}/{building.base(number)}"

            def write(descriptor: int, image: StoredImage = image) -> None:
                with os.fdopen(os.dup(descriptor), "wb") as stream:
                    save_stream(store, [(image, ())], stream)

            def read(descriptor: int, folder: str = folder) -> object:
                return self._copy("unpack", where.pid, folder, descriptor)

            _piped(write, read)
            with tempfile.TemporaryFile() as printed:
                self._require(where, building.pull(number), (printed.fileno(), output[1]))
                printed.seek(0)
                found = building.image_id(printed.read(1024))
            self._require(where, building.tag(found, request.needs[number]), output)

    def _require(self, where: Target, command: Command, output: Sequence[int]) -> None:
        """Run a command to its good end; nothing is given to it to read."""
        with tempfile.TemporaryFile() as nothing:
            try:
                status = self._execute(where, command, self._layout, (nothing.fileno(), *output))
            except ExecError as error:
                hint = "the image that `build` of host.yaml names has to have it: see examples/buildah"
                raise BuildFailedError(error.brief, details=error.details, hint=hint) from error
        if status:
            verb = next(word for word in command.argv[1:] if word in ("pull", "tag", "build", "push"))
            raise BuildFailedError(f"buildah {verb} ended with status {status}", hint="what it said is above")

    def _keep(self, where: Target, tags: Sequence[ImageReference]) -> StoredImage:
        """Take the image out of the workload into the store, under its names."""

        def write(descriptor: int) -> object:
            return self._copy("pack", where.pid, f"{building.FOLDER}/{building.IMAGE}/.", descriptor)

        def read(descriptor: int) -> StoredImage:
            store = images.open_store(self._layout, images.declared(self._layout))
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                image = load_single(stream, store, make=self._make)
            for tag in reversed(tags):
                image = store.name(image, str(tag))
            return image

        with exclusive.lock(self._layout):
            return _piped(write, read)

    def _remove(self, name: str) -> None:
        """Remove the workload; one that is gone, because a host.yaml was applied, is fine."""
        stored = self._current()
        text = stored.declaration
        if name in building.left_over(parse_host(text, "host.yaml")):
            self._apply(transient.remove(text, name), name, lambda said: None, base=stored.record.number)

    def _tidy(self, name: str, seconds: float = PATIENCE) -> None:
        """Remove the workload; if that fails, the next agent does it."""
        try:
            patiently(lambda: self._remove(name), seconds)
        except HostctlError as error:
            log.warning("workload %s stays for now: %s", name, error.brief)

    def recover(self) -> None:
        """Remove the workloads of builds that ended with the agent before this one."""
        try:
            stored = generation.current(self._layout)
            if stored is None or not any(map(building.may_be_one, stored.record.images)):
                return  # without reading the declaration: start-up counts
            names = building.left_over(parse_host(stored.declaration, "host.yaml"))
        except HostctlError:  # one that cannot be read is set aside elsewhere
            return
        for name in names:
            self._tidy(name, 0)

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        takes = ("request", "context", "stdout", "stderr")
        return (Method(name="Build", handler=self.build, strings=1, descriptors=3, root_only=True, takes=takes),)


def _piped(write: Callable[[int], object], read: Callable[[int], Result]) -> Result:
    """Let one side write to a pipe while the other reads from it; return what the reader returns.

    The writer's failure counts more, unless it only is that the reader has gone.
    """
    reader, writer = os.pipe()

    def send() -> None:
        try:
            write(writer)
        finally:
            os.close(writer)

    with ThreadPoolExecutor(max_workers=1) as pool:
        writing = pool.submit(send)
        try:
            found = read(reader)
        except Exception:
            os.close(reader)  # or the writer would wait for it
            error = writing.exception()
            if isinstance(error, HostctlError) and "cut off" not in error.brief:
                raise error from None
            raise
        os.close(reader)
        writing.result()
        return found
