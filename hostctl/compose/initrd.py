"""The initrd: busybox, a script, ``veritysetup`` and the few modules that reach the root. No systemd, no udev.

It starts in about a second where a full one takes half a minute under emulation, and it is small enough to be
read whole. Everything in it comes from locked packages; the script is ``rootfs/initrd/init``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hostctl.compose.cpio import CpioEntry, archive, folder, link, regular
from hostctl.compose.kernel import Kernel, module_closure
from hostctl.compose.tools import ToolsRoot
from hostctl.run import run

# What ends a hang and what keeps a panic's last words come first, so that they are there for all the others; before
# dm-verity the processor's own way to hash, which it keeps to if it is there.
MODULES: tuple[str, ...] = (
    "i6300esb", "wdat_wdt", "efi_pstore", "efivarfs", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "nvme", "xhci_pci",
    "usb_storage", "mmc_block", "sha256-ssse3", "dm-verity", "erofs", "overlay", "vfat", "nls_cp437", "nls_ascii",
    "nls_utf8",
)  # fmt: skip
PROGRAMS: tuple[str, ...] = ("/usr/sbin/veritysetup", "/usr/sbin/findfs", "/usr/sbin/e2fsck", "/usr/sbin/fsck.fat")
APPLETS: tuple[str, ...] = (
    "sh", "cat", "cp", "cut", "echo", "insmod", "mkdir", "mount", "mv", "od", "readlink", "rm", "sed", "sleep",
    "switch_root", "sync", "tail", "tr", "umount",
)  # fmt: skip
FOLDERS: tuple[str, ...] = ("bin", "dev", "modules", "proc", "run", "sys", "sysroot", "tmp")
LOADER = "/lib64/ld-linux-x86-64.so.2"

_LIBRARY = re.compile(r"(/\S+\.so[\w.]*)")


def libraries(listing: str) -> tuple[str, ...]:
    """Return the absolute paths in what ``ld.so --list PROGRAM`` prints."""
    return tuple(dict.fromkeys(_LIBRARY.findall(listing)))


def initrd_archive(tools: ToolsRoot, kernel: Kernel, script: bytes) -> bytes:
    """Return the uncompressed initrd.

    Args:
        tools: the tools root that programs and libraries are taken from.
        kernel: the kernel whose modules go in.
        script: the text of ``/init``.
    """
    entries: dict[str, CpioEntry] = {}

    def add(entry: CpioEntry) -> None:
        for parent in PurePosixPath(entry.path).parents:
            if str(parent) != ".":
                entries.setdefault(str(parent), folder(str(parent)))
        entries[entry.path] = entry

    for name in FOLDERS:
        add(folder(name))
    add(regular("init", script, executable=True))
    add(regular("bin/busybox", _read(tools, "/usr/bin/busybox"), executable=True))
    for applet in APPLETS:
        add(link(f"bin/{applet}", "busybox"))
    for program in PROGRAMS:
        add(regular(f"bin/{PurePosixPath(program).name}", _read(tools, program), executable=True))
        listing = run(tools.argv([LOADER, "--list", program], binds=[])).text
        for library in libraries(listing):
            add(regular(library.lstrip("/"), _read(tools, library), executable=True))
    for entry in _module_entries(kernel, MODULES):
        add(entry)
    return archive(entries.values())


def _read(tools: ToolsRoot, path: str) -> bytes:
    return (tools.path / path.lstrip("/")).resolve().read_bytes()


def _module_entries(kernel: Kernel, wanted: Sequence[str]) -> list[CpioEntry]:
    tree = kernel.modules / "usr/lib/modules" / kernel.version
    files = module_closure((tree / "modules.dep").read_text(), wanted)
    entries = [regular(f"modules/{path.name}", (tree / path).read_bytes()) for path in files]
    order = "".join(f"{path.stem}\n" for path in files)
    return [*entries, regular("modules/order", order.encode())]


def signature_archive(signature: bytes) -> bytes:
    """Return the small second archive that brings the root hash's signature, which the first cannot know."""
    return archive([regular("verity.p7s", signature)])


def script_path(rootfs: Path) -> Path:
    """Return the initrd's script within the data folder ``rootfs``."""
    return rootfs / "initrd/init"
