"""The unified kernel image: kernel, initrd, command line and os-release in one signed EFI program.

It has two profiles, which share kernel and initrd: the release, and its recovery, whose command line has one word
more, for the initrd. Source: UAPI unified kernel image specification; ukify(1). It is signed with a fixed signing time,
because the time is part of the signature and two builds must give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.compose.tools import ToolsRoot
from hostctl.durable import write_file
from hostctl.run import run

STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"

# Fail towards a reset, never towards a halt; keep raw memory, debugging and unsigned code out of reach. A slow disk
# or a busy hypervisor is no hang: a processor may be away for a minute (twice watchdog_thresh), a task wait for ten.
CMDLINE: tuple[str, ...] = (
    "panic=10", "oops=panic", "softlockup_panic=1", "watchdog_thresh=30", "hung_task_panic=1",
    "sysctl.kernel.hung_task_timeout_secs=600", "proc_mem.force_override=never",
    "module.sig_enforce=1", "lockdown=integrity", "slab_nomerge", "init_on_alloc=1", "randomize_kstack_offset=on",
    "vsyscall=none", "debugfs=off", "systemd.gpt_auto=no", "rd.systemd.gpt_auto=no", "console=tty0",
    "console=ttyS0,115200", "quiet", "loglevel=4",
)  # fmt: skip

RECOVERY_WORD = "hostctl.recovery"
"""On the command line it makes the initrd ask what to do instead of looking for a root."""
RECOVERY_PROFILE = "ID=recovery\nTITLE=Recovery"


@dataclass(frozen=True, kw_only=True, slots=True)
class UkiParts:
    """What goes into a UKI: paths of its parts, in folders that the tools root may see."""

    kernel: Path
    kernel_version: str
    initrds: Sequence[Path]
    os_release: Path
    cmdline: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EfiSigner:
    """Paths of the Secure Boot key and certificate, PEM, and the signing time in seconds."""

    key: Path
    certificate: Path
    epoch: int

    def sign(self, tools: ToolsRoot, source: Path, target: Path) -> None:
        """Write ``source``, an EFI program, to ``target`` with our signature."""
        words = ["osslsigncode", "sign", "-h", "sha256", "-time", str(self.epoch)]
        words += ["-certs", str(self.certificate), "-key", str(self.key), "-in", str(source), "-out", str(target)]
        run(tools.argv(words, binds=[self.key.parent, self.certificate.parent, source.parent, target.parent]))


def kernel_cmdline(release: str, root_hash: str, blocks: int, extra: Sequence[str]) -> str:
    """Return the kernel command line of a release. Later words win, so that a release can override ours.

    Args:
        release: NAME_VERSION, the stem of its boot entry: the initrd names it when it gives the release up.
        root_hash: hexadecimal.
        blocks: of the root, of 4096 bytes each. The hash tree's superblock says it too, which no hash protects.
        extra: the release's own words.
    """
    words = [f"roothash={root_hash}", f"hostctl.release={release}", f"hostctl.blocks={blocks}"]
    return " ".join([*words, *CMDLINE, *extra])


def recovery_os_release(text: str) -> str:
    """Return the os-release of the recovery profile, from that of the release.

    systemd-boot sorts by IMAGE_ID before anything else but lost tries. With one that sorts behind the release's own,
    the recovery is never the first of an image's entries, counted or not; so nothing but a person ever chooses it.
    """
    return re.sub(r'^(IMAGE_ID=)"?([^"\n]*)"?$', r'\1"\2~recovery"', text, flags=re.MULTILINE)


def make_uki(tools: ToolsRoot, parts: UkiParts, signer: EfiSigner, output: Path) -> None:
    """Build the UKI and sign it."""
    unsigned, profile = output.with_suffix(".unsigned.efi"), output.with_suffix(".recovery.efi")
    os_release = output.with_suffix(".recovery-os-release")
    write_file(os_release, recovery_os_release(parts.os_release.read_text()).encode())
    folders = sorted({path.parent for path in (parts.kernel, *parts.initrds, parts.os_release, output)})
    words = ["ukify", "build", f"--profile={RECOVERY_PROFILE}", f"--cmdline={parts.cmdline} {RECOVERY_WORD}"]
    run(tools.argv([*words, f"--os-release=@{os_release}", f"--output={profile}"], binds=folders))
    words = ["ukify", "build", f"--linux={parts.kernel}", f"--uname={parts.kernel_version}", f"--stub={STUB}"]
    words += [f"--initrd={path}" for path in parts.initrds]
    words += [f"--cmdline={parts.cmdline}", f"--os-release=@{parts.os_release}", f"--join-profile={profile}"]
    run(tools.argv([*words, f"--output={unsigned}"], binds=folders))
    signer.sign(tools, unsigned, output)
    for path in (os_release, profile, unsigned):
        path.unlink()
