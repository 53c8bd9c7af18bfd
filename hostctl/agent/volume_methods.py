"""The agent's methods for volumes: what :mod:`hostctl.agent.volumes` does, with backups compressed and checked."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import BinaryIO

import zstandard

from hostctl.agent.bus import Call, Method
from hostctl.agent.copying import CopyError
from hostctl.agent.machine import Machine
from hostctl.agent.outcome import Copied
from hostctl.agent.volumes import Volumes
from hostctl.layout import HostLayout

LEVEL = 3
WINDOW = 8 << 20  # bytes: the most memory that reading a backup may take
CHUNK = 1 << 10  # bytes that are decompressed at a time, to 32 MiB at most
LIVE = "live"


class VolumeService:
    """Volumes over the bus, for the machine below a layout."""

    def __init__(self, layout: HostLayout, machine: Machine) -> None:
        self._volumes = Volumes(layout, machine)

    def list(self, call: Call) -> str:
        """Return all volumes: a list of name, path, declared, changed, owner, workloads, running, bytes."""
        sizes = "sizes" in call.arguments[0].split()
        return json.dumps([asdict(volume) for volume in self._volumes.list(sizes=sizes)])

    def inspect(self, call: Call) -> str:
        """Return one volume, with its size."""
        return json.dumps(asdict(self._volumes.get(call.arguments[0])))

    def create(self, call: Call) -> str:
        """Make an empty volume."""
        return json.dumps(asdict(self._volumes.create(call.arguments[0])))

    def remove(self, call: Call) -> str:
        """Remove a volume that is neither declared nor mounted."""
        self._volumes.remove(call.arguments[0])
        return json.dumps({"removed": call.arguments[0]})

    def prune(self, call: Call) -> str:
        """Remove all volumes that are neither declared nor mounted."""
        del call
        return json.dumps([asdict(volume) for volume in self._volumes.prune()])

    def backup(self, call: Call) -> str:
        """Write a volume to a file: a tar archive, zstd with a checksum. Options: live."""
        name, options = call.arguments
        live = LIVE in options.split()
        return json.dumps(asdict(_packed(call.descriptors[0], lambda end: self._volumes.save(name, end, live=live))))

    def restore(self, call: Call) -> str:
        """Make a volume what a backup says, all or nothing. Options: live."""
        name, options = call.arguments
        live = LIVE in options.split()

        def restore(end: int, whole: Callable[[], None]) -> Copied:
            return self._volumes.restore(name, end, whole, live=live)

        return json.dumps(asdict(_unpacked(call.descriptors[0], restore)))

    def methods(self) -> tuple[Method, ...]:
        """Return this part of the interface."""
        one, streamed = ("name",), ("name", "options", "stream")
        return (
            Method(name="ListVolumes", handler=self.list, strings=1, root_only=True, takes=("options",)),
            Method(name="InspectVolume", handler=self.inspect, strings=1, root_only=True, takes=one),
            Method(name="CreateVolume", handler=self.create, strings=1, root_only=True, takes=one),
            Method(name="RemoveVolume", handler=self.remove, strings=1, root_only=True, takes=one),
            Method(name="PruneVolumes", handler=self.prune, root_only=True),
            Method(name="BackupVolume", handler=self.backup, strings=2, descriptors=1, root_only=True, takes=streamed),
            Method(
                name="RestoreVolume", handler=self.restore, strings=2, descriptors=1, root_only=True, takes=streamed
            ),
        )


class _Pump(threading.Thread):
    """Moves bytes between one end of a pipe and a file of the caller's; what went wrong is told by :meth:`finish`."""

    def __init__(self, move: Callable[[BinaryIO, BinaryIO], None], source: int, sink: int) -> None:
        super().__init__()
        self._move, self._source, self._sink = move, source, sink
        self._failure: Exception | None = None

    def run(self) -> None:
        """Move until the source ends."""
        try:
            with os.fdopen(self._source, "rb") as source, os.fdopen(self._sink, "wb") as sink:
                self._move(source, sink)
        except (OSError, zstandard.ZstdError, CopyError) as error:
            self._failure = error

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            CopyError: the stream is not whole.
        """
        self.join()
        if isinstance(self._failure, CopyError):
            raise self._failure
        if isinstance(self._failure, zstandard.ZstdError):
            raise CopyError("the backup is damaged, or none", details=str(self._failure))
        if self._failure is not None:
            raise CopyError("the stream broke off", details=str(self._failure))


def _packed(outer: int, deed: Callable[[int], Copied]) -> Copied:
    """Return what ``deed`` wrote to the file that it is given, compressed into ``outer``."""
    reader, writer = os.pipe()
    pump = _Pump(compress, reader, os.dup(outer))
    pump.start()
    try:
        copied = deed(writer)
    finally:
        os.close(writer)
        pump.join()
    pump.finish()
    return copied


def _unpacked(outer: int, deed: Callable[[int, Callable[[], None]], Copied]) -> Copied:
    """Return what ``deed`` read, decompressed from ``outer``; it is given what tells that the whole of it was right."""
    reader, writer = os.pipe()
    pump = _Pump(decompress, os.dup(outer), writer)
    pump.start()
    try:
        return deed(reader, pump.finish)
    finally:
        os.close(reader)
        pump.join()


def compress(source: BinaryIO, sink: BinaryIO) -> None:
    """Write a backup: one zstd frame with a checksum."""
    zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).copy_stream(source, sink)


def decompress(source: BinaryIO, sink: BinaryIO) -> None:
    """Read a backup to its end, in memory that does not depend on what it unpacks to.

    Raises:
        ZstdError: it is none, or its checksum is wrong.
        CopyError: it was cut off, or something follows it.
    """
    frame = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()
    while data := source.read(CHUNK):
        sink.write(frame.decompress(data))
        if frame.eof:
            break
    if not frame.eof:
        raise CopyError("the backup was cut off")
    if frame.unused_data or source.read(1):
        raise CopyError("something follows the backup")
