"""Starts machines from one that has booted already: its memory as a migration stream, its disk frozen.

A snapshot's files are never written again; each restored machine gets an overlay and firmware variables of its own.
It must have the same devices, so memory, processors, accelerator, boot and the stage port are those of the snapshot.
The filters of its disk may be others: what they do is no part of the guest's state.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hostctl_qemu.attachment import Attachment
from hostctl_qemu.machine import Forward, Machine, MachineConfig, MachineError, make_overlay
from hostctl_qemu.qmp import Event

MEMORY_FILE = "memory"
MIGRATE_SECONDS = 120.0
UNLIMITED = 1 << 40  # bytes a second; QEMU's default of 128 MiB is meant for networks


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A stopped machine: `memory` is a migration stream, `config.disk` its frozen disk."""

    config: MachineConfig
    memory: Path


def take(machine: Machine) -> Snapshot:
    """Stop a machine for good and return it as a snapshot; its run folder becomes the snapshot's.

    Raises:
        MachineError: its memory could not be saved.
        QmpError: QEMU refused or did not answer.
    """
    memory = machine.config.folder / MEMORY_FILE
    machine.qmp.execute("stop")
    descriptor = os.open(memory, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _transfer(machine, "migrate", descriptor)
    finally:
        os.close(descriptor)
    machine.qmp.execute("quit")
    machine.wait_end(MIGRATE_SECONDS)  # only then QEMU has flushed and unlocked the disk
    return Snapshot(config=machine.config, memory=memory)


def restore(
    snapshot: Snapshot, folder: Path, forwards: tuple[Forward, ...], attachment: Attachment | None = None
) -> Machine:
    """Start a machine that goes on where the snapshot stopped.

    Args:
        snapshot: where to start.
        folder: a run folder for the new machine, without one in it.
        forwards: its ports; several machines of one snapshot need different ones.
        attachment: filters of its disk; none are those of the snapshot.

    Raises:
        MachineError: the memory could not be loaded.
        QmpError: QEMU refused or did not answer.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    disk = folder / "disk.qcow2"
    make_overlay(snapshot.config.disk, "qcow2", disk)
    variables = snapshot.config.folder / "vars.fd"
    if variables.exists():
        shutil.copyfile(variables, folder / "vars.fd")
    config = dataclasses.replace(
        snapshot.config,
        disk=disk,
        folder=folder,
        forwards=forwards,
        attachment=snapshot.config.attachment if attachment is None else attachment,
    )
    machine = Machine.start(config, incoming=True)
    try:
        descriptor = os.open(snapshot.memory, os.O_RDONLY)
        try:
            _transfer(machine, "migrate-incoming", descriptor)
        finally:
            os.close(descriptor)
        machine.qmp.execute("cont")
    except BaseException:
        machine.power_cut()
        raise
    return machine


def _transfer(machine: Machine, command: str, descriptor: int) -> None:
    """Run a migration through an open file: the stream needs neither a shell nor a path that QEMU may read."""
    qmp = machine.qmp
    capability = {"capability": "events", "state": True}
    qmp.execute("migrate-set-capabilities", {"capabilities": [capability]})
    qmp.execute("migrate-set-parameters", {"max-bandwidth": UNLIMITED})
    qmp.execute("getfd", {"fdname": "memory"}, fds=[descriptor])
    qmp.execute(command, {"uri": "fd:memory"})
    if _status(qmp.wait_event("MIGRATION", MIGRATE_SECONDS, _ended)) != "completed":
        raise MachineError(f"QEMU could not {command} the machine's memory", details=str(qmp.execute("query-migrate")))


def _status(event: Event) -> object:
    return event.data.get("status")


def _ended(event: Event) -> bool:
    return _status(event) in ("completed", "failed", "cancelled")
