"""Chooses between KVM and emulation by booting a real kernel.

There are machines whose `/dev/kvm` opens, makes machines and runs tiny guests, but where every stock kernel
dies in its decompressor with "KVM internal error". So the probe boots the release's own kernel and waits for
its first line. The verdict is kept for the running boot of this machine.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostctl.durable import write_file
from hostctl.run import ENVIRONMENT
from hostctl_qemu.emulator import Emulator, find_emulator

PROBE_SECONDS = 10.0
FIRST_LINE = b"Linux version"
FAILURES = (b"KVM internal error", b"failed to initialize kvm", b"Could not access KVM")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Verdict = Literal["usable", "broken", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """How QEMU runs guest code: the words that start it, the arguments, and why this way was chosen."""

    name: Literal["kvm", "tcg"]
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    reason: str


def kvm(reason: str, emulator: Emulator) -> Accelerator:
    """Return the way of hardware virtualisation."""
    arguments = ("-accel", "kvm", "-cpu", "host")
    return Accelerator(name="kvm", program=emulator.argv, arguments=arguments, reason=reason)


def tcg(reason: str, emulator: Emulator) -> Accelerator:
    """Return the way of emulation; a translation cache of 512 MiB holds a booting host without flushes.

    A processor that says that ``rep movsb`` is quick has the guest copy and clear memory by it, but it is emulated byte
    by byte: three times slower than the loops that the guest has otherwise. Nor need there be a fifth level of page
    tables to walk.
    """
    arguments = ("-accel", f"tcg,thread={emulator.threads},tb-size=512", "-cpu", "max,-erms,-fsrm,-la57")
    return Accelerator(name="tcg", program=emulator.argv, arguments=arguments, reason=reason)


def judge(output: bytes) -> Verdict:
    """Return what the probe's output so far says: the kernel's first line decides, an error of KVM does too."""
    if any(failure in output for failure in FAILURES):
        return "broken"
    return "usable" if FIRST_LINE in output else "undecided"


def probe(kernel: Path, emulator: Emulator, seconds: float = PROBE_SECONDS) -> bool:
    """Boot ``kernel`` under KVM without a root and tell whether its first line came within ``seconds``."""
    way = kvm("", emulator)
    argv = [
        *way.program,
        "-M",
        "q35",
        *way.arguments,
        "-m",
        "256",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]
    argv += ["-no-reboot", "-serial", "stdio", "-kernel", str(kernel)]
    argv += ["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(ENVIRONMENT)
    )
    output = b""
    end = time.monotonic() + seconds
    with process:
        try:
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            stream = process.stdout.fileno()
            while judge(output) == "undecided" and select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
                chunk = os.read(stream, 65536)
                if not chunk:
                    break
                output += chunk
        finally:
            process.kill()
    return judge(output) == "usable"


def choose(kernel: Path, cache: Path, try_kvm: Callable[[Path, Emulator], bool] = probe) -> Accelerator:
    """Return KVM when it boots ``kernel``, else emulation.

    Args:
        kernel: a bzImage, for example of the release that is to run.
        cache: the builder's cache, where the verdict is kept until this machine boots again.
        try_kvm: tells whether KVM boots a kernel.

    Raises:
        CommandNotFoundError: QEMU is not installed.
    """
    emulator = find_emulator(cache)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return tcg("/dev/kvm cannot be opened", emulator)
    boot = BOOT_ID.read_text("ascii").strip()
    record = cache / "kvm-verdict.json"
    usable = _remembered(record, boot)
    if usable is None:
        usable = try_kvm(kernel, emulator)
        cache.mkdir(parents=True, exist_ok=True)
        write_file(record, json.dumps({"boot": boot, "usable": usable}).encode())
    if usable:
        return kvm("a kernel boots under KVM", emulator)
    return tcg("a kernel does not boot under this machine's KVM", emulator)


def _remembered(record: Path, boot: str) -> bool | None:
    try:
        document = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("boot") != boot:
        return None
    usable = document.get("usable")
    return usable if isinstance(usable, bool) else None
