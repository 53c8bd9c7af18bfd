"""The kernel of a release: its image and its modules, taken out of the package and made plain.

The package is extracted, not installed, because it depends on an initramfs generator that the host has no use
for. Modules are stored decompressed, and so is what the kernel's image holds: patches between two releases see
through them, and the initrd's loader needs no decompressor. Modules of hardware that no container host drives are
left out.
"""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostctl.compose.bzimage import BzImageError
from hostctl.compose.rewrap import rewrap
from hostctl.compose.tools import ToolsRoot
from hostctl.durable import write_file
from hostctl.errors import HostctlError
from hostctl.run import run

MODULE_LIMIT = 64 << 20  # bytes of one decompressed module; the largest of Debian's is about 6 MiB

# Below kernel/ in the module tree. None of these is needed to boot, store, connect or isolate.
LEFT_OUT: tuple[str, ...] = (
    "drivers/comedi", "drivers/gpu", "drivers/hid/surface-hid", "drivers/hwtracing", "drivers/iio",
    "drivers/infiniband", "drivers/input/joystick", "drivers/input/tablet", "drivers/input/touchscreen",
    "drivers/isdn", "drivers/media", "drivers/memstick", "drivers/net/can", "drivers/net/hamradio",
    "drivers/net/wireless", "drivers/net/wwan", "drivers/nfc", "drivers/parport", "drivers/pcmcia",
    "drivers/platform/surface", "drivers/staging", "drivers/video", "drivers/w1", "fs/afs", "fs/ceph",
    "fs/coda", "fs/gfs2", "fs/jfs", "fs/nilfs2", "fs/ocfs2", "fs/orangefs", "fs/reiserfs", "fs/ubifs", "fs/ufs",
    "net/6lowpan", "net/appletalk", "net/ax25", "net/batman-adv", "net/bluetooth", "net/can", "net/ceph",
    "net/dccp", "net/ieee802154", "net/mac80211", "net/netrom", "net/nfc", "net/rds", "net/rose", "net/sctp",
    "net/smc", "net/tipc", "net/wireless", "sound",
)  # fmt: skip


class KernelError(HostctlError):
    """The kernel package is not as expected."""

    id = "kernel-package"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel made ready."""

    version: str
    stock: Path
    """The bzImage as it was packaged, which a BIOS boot loader can start too."""
    image: Path
    """The bzImage that firmware starts, with plain contents where :mod:`hostctl.compose.rewrap` could bring them in."""
    modules: Path
    """Tree with ``usr/lib/modules/VERSION``."""
    note: str
    """Why ``image`` is the stock one; empty if it is not."""


def is_left_out(path: PurePosixPath) -> bool:
    """Tell whether the module at ``path`` (relative to ``kernel/``) stays out of the release."""
    return any(path.is_relative_to(prefix) for prefix in LEFT_OUT)


def decompress(data: bytes) -> bytes:
    """Return a module's plain bytes.

    Raises:
        KernelError: it is damaged, or larger than :data:`MODULE_LIMIT`.
    """
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=256 << 20)
    try:
        plain = decoder.decompress(data, MODULE_LIMIT)
    except lzma.LZMAError as error:
        raise KernelError(f"a kernel module is damaged: {error}") from error
    if not decoder.eof:
        raise KernelError(f"a kernel module is larger than {MODULE_LIMIT >> 20} MiB")
    return plain


def prepare_kernel(package: Path, tools: ToolsRoot, output: Path) -> None:
    """Extract a kernel package into ``output``: its image, as it is and plain, and modules with fresh dependency lists.

    Args:
        package: the ``linux-image-VERSION`` package.
        tools: where ``depmod`` is run.
        output: an empty folder.
    """
    unpacked = output / "unpacked"
    run(["dpkg-deb", "--extract", package, unpacked])
    images = list((unpacked / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise KernelError(f"{package.name} holds {len(images)} kernels, not one")
    version = images[0].name.removeprefix("vmlinuz-")
    shutil.move(images[0], output / "vmlinuz")
    plain, note = plain_image((output / "vmlinuz").read_bytes())
    (output / "vmlinuz.plain").write_bytes(plain)
    write_file(output / "note", note.encode())
    _copy_modules(unpacked / "usr/lib/modules" / version, output / "modules/usr/lib/modules" / version)
    shutil.rmtree(unpacked)
    # depmod looks below lib/modules, which is usr/lib/modules on a merged-/usr system.
    (output / "modules/lib").symlink_to("usr/lib")
    run(tools.argv(["depmod", "-b", str(output / "modules"), version], binds=[output]))
    (output / "modules/lib").unlink()


def plain_image(stock: bytes) -> tuple[bytes, str]:
    """Return the bzImage to boot, and why it is the stock one if it is."""
    try:
        return rewrap(stock), ""
    except BzImageError as error:
        return stock, f"the kernel stays compressed, updates of it will be large: {error.brief}"


def _copy_modules(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(source / name, target / name)
    for path in sorted((source / "kernel").rglob("*.ko*")):
        relative = PurePosixPath(path.relative_to(source / "kernel").as_posix())
        if is_left_out(relative):
            continue
        plain = target / "kernel" / str(relative).removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        plain.write_bytes(decompress(data) if path.suffix == ".xz" else data)


def load_kernel(folder: Path) -> Kernel:
    """Return the kernel that :func:`prepare_kernel` left in ``folder``."""
    (version,) = (path.name for path in (folder / "modules/usr/lib/modules").iterdir())
    return Kernel(
        version=version,
        stock=folder / "vmlinuz",
        image=folder / "vmlinuz.plain",
        modules=folder / "modules",
        note=(folder / "note").read_text(),
    )


def module_closure(dependencies: str, wanted: Sequence[str]) -> tuple[PurePosixPath, ...]:
    """Return the files to load for ``wanted`` modules, each after what it needs.

    Args:
        dependencies: the text of ``modules.dep`` (modules.dep(5): ``path: needed paths``, last needed first).
        wanted: names of modules, with ``-`` or ``_``; one that is built in or absent is passed over.
    """
    needs: dict[str, tuple[str, ...]] = {}
    by_name: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = tuple(rest.split())
        by_name[PurePosixPath(path).name.removesuffix(".ko").replace("-", "_")] = path
    ordered: list[str] = []
    for name in wanted:
        path = by_name.get(name.replace("-", "_"), "")
        if path:
            ordered += [file for file in (*reversed(needs[path]), path) if file not in ordered]
    return tuple(PurePosixPath(path) for path in ordered)
