"""``hostctl vm``: runs a built release in a virtual machine on this computer. The work is in `hostctl_qemu`."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from hostctl_qemu.machine import Forward, Machine, MachineConfig, connect
from hostctl_qemu.qmp import Qmp
from hostctl_qemu.ssh import Ssh
from hostctl_qemu.state import StateError, is_running, load_state, make_config
from hostctl_qemu.terminal import attach

from hostctl.cli import actions
from hostctl.compose.manifest import load_manifest
from hostctl.config.load import load_host
from hostctl.config.quantities import ByteSize
from hostctl.config.references import PortMapping
from hostctl.errors import UsageError
from hostctl.progress import Progress

MIB = 1 << 20
STOP_SECONDS = 120.0
EXAMPLES = """examples:
  hostctl vm run out --config host.yaml     boot it, console on this terminal; Ctrl-A X ends it
  hostctl vm run out --detach --port 8080:8080
  hostctl vm ssh out -- hostctl status
  hostctl vm stop out                       press the power button of a detached machine
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    words = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    start = actions.add(words, "run", "boot a built release; again: go on with the same machine", EXAMPLES)
    start.add_argument("--config", type=Path, metavar="HOST.YAML", help="what the first boot applies")
    start.add_argument("--memory", default="1G", metavar="SIZE", help="memory (default: 1G)")
    start.add_argument("--cpus", type=int, default=2, metavar="N", help="processors (default: 2)")
    start.add_argument("--port", action="append", default=[], metavar="HERE:THERE", help="forward a TCP port")
    boot = start.add_mutually_exclusive_group()
    boot.add_argument("--firmware", action="store_true", help="boot through OVMF and the boot loader (default)")
    boot.add_argument("--direct", action="store_true", help="boot the kernel of DIR at once: faster, no slots")
    start.add_argument("--detach", action="store_true", help="leave it running in the background")
    ssh = actions.add(words, "ssh", "log in to the machine, or run a command in it", EXAMPLES)
    ssh.add_argument("--user", default="root", metavar="NAME", help="log in as (default: root)")
    stop = actions.add(words, "stop", "shut a detached machine down", EXAMPLES)
    for action in (start, ssh, stop):
        action.add_argument("dir", type=Path, metavar="DIR", help="folder of the built release")
        action.add_argument("--state", type=Path, metavar="FOLDER", help="folder of the machine (default: DIR/vm)")
    ssh.add_argument("command", nargs="*", metavar="COMMAND", help="after --: the command; options stand before DIR")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb."""
    folder: Path = arguments.state if arguments.state is not None else arguments.dir / "vm"
    if arguments.action == "run":
        return _run(arguments, folder)
    if arguments.action == "ssh":
        return _ssh(folder, arguments.user, arguments.command)
    return _stop(folder)


def forward(text: str) -> Forward:
    """Return the forwarding that `HERE:THERE` asks for.

    Raises:
        UsageError: it asks for something else than a TCP port of this computer.
    """
    try:
        mapping = PortMapping.parse(text)
    except ValueError as error:
        raise UsageError(f"--port: {error}") from error
    if mapping.protocol != "tcp" or mapping.count > 1 or mapping.address not in (None, "127.0.0.1"):
        raise UsageError(f"--port {text}: only single TCP ports on 127.0.0.1 are forwarded", hint="write it as 8080:80")
    return Forward(host_port=mapping.host_port, guest_port=mapping.container_port)


def mebibytes(text: str) -> int:
    """Return a size as whole MiB.

    Raises:
        UsageError: it is no size, or less than a host needs to boot.
    """
    try:
        size = int(ByteSize.parse(text)) // MIB
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    if size < 256:
        raise UsageError(f"--memory {text}: a host does not boot with less than 256M")
    return size


def cache_folder() -> Path:
    """Return the user's cache folder for hostctl."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "hostctl"


def _config(arguments: argparse.Namespace, folder: Path) -> MachineConfig:
    if arguments.cpus < 1:
        raise UsageError(f"--cpus {arguments.cpus}: a machine has one processor at least")
    if arguments.config is not None:
        load_host(arguments.config)  # its mistakes are told now, not by a machine that does not come up
    return make_config(
        arguments.dir,
        load_manifest(arguments.dir),
        folder,
        cache=cache_folder(),
        direct=arguments.direct,
        memory=mebibytes(arguments.memory),
        cpus=arguments.cpus,
        declaration=arguments.config.read_bytes() if arguments.config is not None else None,
        forwards=tuple(forward(text) for text in arguments.port),
    )


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    config = _config(arguments, folder)
    progress = Progress()
    progress.line(f"{config.accelerator.name}: {config.accelerator.reason}; state in {folder}")
    if arguments.detach:
        machine = Machine.start(config)
        machine.detach()
        progress.line(f"process {machine.process.pid}, console in {config.serial_log}")
        return 0
    progress.line("Ctrl-A X ends the machine")
    with Machine.start(config, paused=True) as machine:
        attach(machine)
    return 0


def _ssh(folder: Path, user: str, command: list[str]) -> int:
    state = load_state(folder)
    if state is None or not is_running(folder):
        raise StateError(f"no machine runs in {folder}", hint="`hostctl vm run DIR --detach` starts it")
    ssh = Ssh(folder=folder, port=state.ssh_port, user=user)
    return subprocess.run(ssh.command(command), check=False).returncode  # on the terminal, so not through run()


def _stop(folder: Path) -> int:
    if not is_running(folder):
        raise StateError(f"no machine runs in {folder}")
    qmp = Qmp(connect(folder, "qmp.sock"))
    qmp.execute("system_powerdown")
    qmp.wait_event("SHUTDOWN", STOP_SECONDS)
    qmp.wait_closed(STOP_SECONDS)
    qmp.close()
    return 0
