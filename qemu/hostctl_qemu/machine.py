"""One virtual machine: what it is made of (pure), and the QEMU process that runs it (thin).

Everything of a machine is in its run folder. Its sockets are made and listening before QEMU starts and are handed
over as descriptors, so nothing waits for them to appear. The guest starts only once its console is being read.
QEMU is ended by its process handle only. The disk given is written to: see :func:`make_overlay`.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.run import ENVIRONMENT, CommandNotFoundError, run, tail
from hostctl_qemu import stage_port
from hostctl_qemu.accelerator import Accelerator
from hostctl_qemu.attachment import PLAIN, Attachment, disk_arguments
from hostctl_qemu.qmp import Qmp, QmpError
from hostctl_qemu.serial import SerialConsole
from hostctl_qemu.stage_port import StagePort

OVMF = Path("/usr/share/OVMF")
CREDENTIAL = "io.systemd.credential.binary"  # systemd.system-credentials(7), taken from SMBIOS type 11 strings
DEFAULT_DISK_BYTES = 8 << 30
END_SECONDS = 10.0


class MachineError(HostctlError):
    """A virtual machine cannot start, or did not do what it was told."""

    id = "machine-failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Firmware:
    """Boot through OVMF, with variables of the machine's own."""

    secure_boot: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """Boot a kernel without firmware, for speed."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """A TCP port of the guest, reachable on 127.0.0.1 of this machine."""

    host_port: int
    guest_port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """What a machine is made of. `disk` is a qcow2 file that the machine writes to, `memory` is in MiB.

    `stages` gives it a stage port, see :class:`StagePort`. `clock` is what its battery-backed clock shows at start, as
    QEMU's `-rtc base=` takes it; empty is the time of this machine.
    """

    disk: Path
    folder: Path
    boot: Firmware | Direct
    accelerator: Accelerator
    memory: int = 1024
    cpus: int = 2
    credentials: Mapping[str, bytes] = field(default_factory=dict)
    forwards: tuple[Forward, ...] = ()
    watchdog: bool = True
    attachment: Attachment = PLAIN
    stages: bool = False
    clock: str = ""

    @property
    def serial_log(self) -> Path:
        """Where everything that the guest prints is kept, over all its boots."""
        return self.folder / "serial.log"


def option(value: str | Path) -> str:
    """Return a value for QEMU's comma-separated options, in which a comma is doubled."""
    return str(value).replace(",", ",,")


def credential_string(name: str, value: bytes) -> bytes:
    """Return the SMBIOS string that hands a credential to systemd."""
    return f"{CREDENTIAL}:{name}={base64.b64encode(value).decode()}".encode()


def credential_path(config: MachineConfig, name: str) -> Path:
    """Return the file that holds a credential's string, as arguments are readable by everybody."""
    return config.folder / f"credential-{name}"


def boot_arguments(config: MachineConfig) -> list[str]:
    """Return the arguments for the machine type, firmware and kernel."""
    if isinstance(config.boot, Direct):
        boot = config.boot
        words = ["-M", "q35", "-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.cmdline]
    else:
        secure = config.boot.secure_boot
        code = OVMF / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
        variables = config.folder / "vars.fd"
        words = ["-M", "q35,smm=on" if secure else "q35"]
        if secure:
            words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={option(code)}"]
        words += ["-drive", f"if=pflash,unit=1,format=raw,file={option(variables)}"]
    return words


def arguments(
    config: MachineConfig, *, qmp: int, serial: int, stages: int | None = None, incoming: bool = False
) -> list[str]:
    """Return QEMU's whole argument list.

    Args:
        config: the machine.
        qmp: descriptor of the listening socket for QMP.
        serial: descriptor of the listening socket for the console.
        stages: descriptor of the listening socket for the stage port, if the machine has one.
        incoming: wait for a snapshot instead of starting afresh.
    """
    words = [
        *config.accelerator.program,
        "-name",
        "hostctl",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
    ]
    words += [*boot_arguments(config), *config.accelerator.arguments]
    words += ["-smp", str(config.cpus), "-m", str(config.memory)]
    words += [*disk_arguments(config.disk, config.attachment), "-device", "virtio-rng-pci"]
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{f.host_port}-:{f.guest_port}" for f in config.forwards)
    words += ["-netdev", f"user,id=net{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="]
    if config.watchdog:
        words += ["-device", "i6300esb", "-action", "watchdog=reset"]
    for name in sorted(config.credentials):
        words += ["-smbios", f"type=11,path={option(credential_path(config, name))}"]
    words += ["-chardev", f"socket,id=qmp,fd={qmp},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
    log = f"logfile={option(config.serial_log)},logappend=on"
    words += ["-chardev", f"socket,id=serial,fd={serial},server=on,wait=off,{log}", "-serial", "chardev:serial"]
    if stages is not None:
        words += ["-chardev", f"socket,id=stages,fd={stages},server=on,wait=off", "-device", "virtio-serial-pci"]
        words += ["-device", f"virtserialport,chardev=stages,name={stage_port.NAME}"]
    if config.clock:
        words += ["-rtc", f"base={config.clock}"]
    return words + (["-incoming", "defer"] if incoming else [])


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def make_overlay(base: Path, base_format: str, overlay: Path, size: int | None = None) -> None:
    """Make a qcow2 file over a disk that itself stays as it is.

    Args:
        base: the disk below, never written.
        base_format: its format, `raw` or `qcow2`.
        overlay: the file to make.
        size: bytes of the virtual disk; none keeps that of ``base``.
    """
    words: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", base.resolve()]
    run([*words, overlay, *([str(size)] if size is not None else [])], timeout=60)


def listen(folder: Path, name: str) -> socket.socket:
    """Return a listening Unix socket `name` in ``folder``, whose path may be longer than socket addresses are."""
    (folder / name).unlink(missing_ok=True)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"/proc/self/fd/{directory}/{name}")
        server.listen(128)  # more than ever ask at once: connecting to a full queue would block
    finally:
        os.close(directory)
    return server


def connect(folder: Path, name: str) -> socket.socket:
    """Connect to the Unix socket `name` in ``folder``.

    Raises:
        MachineError: nobody listens there.
    """
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(f"/proc/self/fd/{directory}/{name}")
    except OSError as error:
        client.close()
        raise MachineError(f"no machine runs in {folder}", details=f"{name}: {error.strerror}") from error
    finally:
        os.close(directory)
    return client


class Machine:
    """A running machine. As a context manager it cuts the power at the end."""

    def __init__(
        self,
        config: MachineConfig,
        process: subprocess.Popen[bytes],
        qmp: Qmp,
        serial: SerialConsole,
        stages: StagePort | None,
    ) -> None:
        self.config = config
        self.process = process
        self.qmp = qmp
        self.serial = serial
        self._stages = stages

    @classmethod
    def start(cls, config: MachineConfig, *, paused: bool = False, incoming: bool = False) -> Self:
        """Start QEMU, and the guest unless ``paused``.

        Args:
            config: the machine.
            paused: leave the guest's processors stopped.
            incoming: the guest comes from a snapshot, see :mod:`hostctl_qemu.snapshot`; it is then paused.

        Raises:
            MachineError: QEMU ended at once, with what it said.
            CommandNotFoundError: it is not installed.
        """
        prepare(config)
        names = ("qmp.sock", "serial.sock", *(["stages.sock"] if config.stages else []))
        with ExitStack() as stack:
            fds = [stack.enter_context(listen(config.folder, name)).fileno() for name in names]
            stages_fd = fds[2] if config.stages else None
            argv = arguments(config, qmp=fds[0], serial=fds[1], stages=stages_fd, incoming=incoming)
            process = _spawn(argv, config.folder, fds)
            connections = [connect(config.folder, name) for name in names]
        try:
            qmp = Qmp(connections[0])
        except QmpError as error:
            process.kill()
            process.wait()
            for connection in connections:
                connection.close()
            said = tail((config.folder / "qemu.log").read_bytes())
            raise MachineError("QEMU did not start", details=said or error.brief) from error
        port = StagePort(connections[2]) if config.stages else None
        machine = cls(config, process, qmp, SerialConsole(connections[1]), port)
        if not (paused or incoming):
            machine.qmp.execute("cont")
        return machine

    @property
    def stages(self) -> StagePort:
        """The stage port.

        Raises:
            MachineError: the machine has none.
        """
        if self._stages is None:
            raise MachineError("this machine has no stage port")
        return self._stages

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_cut()

    def wait_for_serial(self, pattern: str, seconds: float, *, after: int = 0) -> str:
        """Return what matched a regular expression on the console, see :meth:`SerialConsole.wait`."""
        return self.serial.wait(pattern, seconds, after=after).group(0)

    def wait_end(self, seconds: float) -> int:
        """Return QEMU's exit status once it ended.

        Raises:
            MachineError: it still runs after ``seconds``.
        """
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            last = tail(self.serial.text.encode())
            raise MachineError(f"the machine still runs after {seconds:g} s", details=last) from error
        self._release()
        return status

    def powerdown(self, seconds: float) -> None:
        """Press the power button and wait for the guest to shut down.

        Raises:
            MachineError: it did not within ``seconds``.
        """
        self.qmp.execute("system_powerdown")
        self.wait_end(seconds)

    def power_cut(self) -> None:
        """End the machine at once, as a power failure does; does nothing to one that ended."""
        self.process.kill()
        self.process.wait(END_SECONDS)
        self._release()

    def quit(self) -> None:
        """Make QEMU end by itself, with its files flushed; the guest is not asked."""
        self.qmp.execute("quit")
        self.wait_end(END_SECONDS)

    def detach(self) -> None:
        """Let the machine run on without this process."""
        self._release()

    def _release(self) -> None:
        self.serial.close()
        self.qmp.close()
        if self._stages is not None:
            self._stages.close()


def prepare(config: MachineConfig) -> None:
    """Make the run folder with the machine's credentials and firmware variables; existing variables stay."""
    config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, value in config.credentials.items():
        write_file(credential_path(config, name), credential_string(name, value), mode=0o600)
    if config.attachment.log is not None:
        config.attachment.log.write_bytes(b"")
    variables = config.folder / "vars.fd"
    if isinstance(config.boot, Firmware) and not variables.exists():
        try:
            shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", variables)
        except FileNotFoundError as error:
            raise MachineError("the firmware OVMF is not installed", hint="script/setup installs it") from error


def _spawn(argv: Sequence[str], folder: Path, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    with (folder / "qemu.log").open("wb") as log:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(ENVIRONMENT),
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C on the terminal is for the guest, or for us
            )
        except FileNotFoundError as error:
            raise CommandNotFoundError(f"{argv[0]} is not installed", hint="script/setup installs it") from error
    write_file(folder / "qemu.pid", f"{process.pid}\n".encode())
    return process
