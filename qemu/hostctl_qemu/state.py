"""The folder that keeps a release's machine between runs: its disk, keys, firmware variables and kernel.

The release's own disk is never written; the machine's disk is an overlay over it and belongs to exactly that build.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hostctl.compose.manifest import Manifest
from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl_qemu.accelerator import choose
from hostctl_qemu.machine import (
    DEFAULT_DISK_BYTES,
    Direct,
    Firmware,
    Forward,
    MachineConfig,
    MachineError,
    connect,
    free_port,
    make_overlay,
)
from hostctl_qemu.pe import read_uki
from hostctl_qemu.ssh import make_key

SSH_PORT = 22
ROOT_KEYS = "ssh.authorized_keys.root"  # systemd.system-credentials(7)
HOST_DECLARATION = "hostctl.host"


class StateError(HostctlError):
    """A folder does not hold the state of this release's machine."""

    id = "vm-state"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What is remembered of a machine: the build its disk lies over, and its port for SSH in the last run."""

    disk_sha256: str
    ssh_port: int


def load_state(folder: Path) -> State | None:
    """Return the state in ``folder``, or none when no machine ran there.

    Raises:
        StateError: it is unreadable.
    """
    path = folder / "state.json"
    try:
        document = json.loads(path.read_bytes())
        return State(disk_sha256=str(document["disk_sha256"]), ssh_port=int(document["ssh_port"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is not the state of a machine", hint=f"remove {folder} to start afresh") from error


def is_running(folder: Path) -> bool:
    """Tell whether a machine runs in ``folder``."""
    if not folder.is_dir():
        return False
    try:
        connect(folder, "qmp.sock").close()
    except MachineError:
        return False
    return True


def make_config(
    build: Path,
    manifest: Manifest,
    folder: Path,
    *,
    cache: Path,
    direct: bool = False,
    memory: int = 1024,
    cpus: int = 2,
    declaration: bytes | None = None,
    forwards: tuple[Forward, ...] = (),
) -> MachineConfig:
    """Prepare ``folder`` for the next run of a release's machine and return what to start.

    Args:
        build: the folder of the built release.
        manifest: its manifest.
        folder: the machine's state; made, or gone on with.
        cache: where the verdict about KVM is kept.
        direct: boot the kernel of the release without firmware.
        memory: MiB.
        cpus: processors.
        declaration: contents of the host.yaml that the first boot applies.
        forwards: ports besides SSH's.

    Raises:
        StateError: the folder's disk belongs to another build, or a machine runs in it.
        UkiError: the release's UKI is unusable.
    """
    if is_running(folder):
        raise StateError(f"the machine in {folder} runs already", hint="`hostctl vm ssh DIR` reaches it")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    base, disk = manifest.artifact("disk"), folder / "disk.qcow2"
    known = load_state(folder)
    if known is not None and known.disk_sha256 != base.sha256:
        raise StateError(
            f"the machine in {folder} belongs to another build than {build}",
            hint="remove the folder, or name another by --state",
        )
    if known is None or not disk.exists():
        make_overlay(build / base.path, "raw", disk, max(DEFAULT_DISK_BYTES, base.bytes))
    uki = read_uki((build / manifest.artifact("uki").path).read_bytes())
    # The kernel in the UKI starts by its EFI entry only; QEMU starts kernels as a BIOS boot loader does.
    kernel, initrd = folder / "kernel", folder / "initrd"
    shutil.copyfile(build / manifest.artifact("kernel").path, kernel)
    initrd.write_bytes(uki.initrd)
    ssh = Forward(host_port=free_port(), guest_port=SSH_PORT)
    state = State(disk_sha256=base.sha256, ssh_port=ssh.host_port)
    write_file(folder / "state.json", json.dumps(asdict(state)).encode())
    return MachineConfig(
        disk=disk,
        folder=folder,
        boot=Direct(kernel=kernel, initrd=initrd, cmdline=uki.cmdline) if direct else Firmware(),
        accelerator=choose(kernel, cache),
        memory=memory,
        cpus=cpus,
        credentials=credentials(folder, declaration),
        forwards=(ssh, *forwards),
    )


def credentials(folder: Path, declaration: bytes | None) -> Mapping[str, bytes]:
    """Return what a machine is told at boot: whose key logs in as root, and the declaration of its first boot."""
    keys = {ROOT_KEYS: f"{make_key(folder)}\n".encode()}
    return keys if declaration is None else {**keys, HOST_DECLARATION: declaration}
