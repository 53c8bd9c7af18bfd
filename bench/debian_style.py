"""The same release as builders of Debian images ship it: modules as `.ko.xz`, a compressed kernel and initrd.

Made from a release of ours and the kernel's package, so that both kinds hold the same files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import zstandard

from bench import peers
from hostctl.compose.lock import cache_folder, load_lock
from hostctl.compose.manifest import load_manifest
from hostctl.compose.packages import deb_path
from hostctl.run import run

INITRD_LEVEL = 19
UUID = "00000000-0000-0000-0000-000000000001"


def files(built: Path, lock: Path, folder: Path) -> dict[str, Path]:
    """Write a root and a boot image in the usual style and return their paths by name.

    Args:
        built: the release as we built it.
        lock: what it was built from.
        folder: gets the files; what is there already is used.
    """
    root, boot = folder / "root.erofs", folder / "boot"
    manifest = load_manifest(built)
    if not root.exists():
        tree, package = folder / "tree", folder / "package"
        for path in (tree, package):
            shutil.rmtree(path, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        run(["fsck.erofs", f"--extract={tree}", built / manifest.artifact("root").path], timeout=peers.SETTLE)
        (kernel,) = load_lock(lock).kernel
        run(["dpkg-deb", "--extract", deb_path(cache_folder(), kernel), package], timeout=peers.SETTLE)
        for packed in sorted(package.rglob("*.ko.xz")):
            plain = tree / packed.relative_to(package).with_suffix("")
            if plain.exists():
                plain.unlink()
                shutil.copyfile(packed, plain.with_name(packed.name))
        run(["mkfs.erofs", "-T0", f"-U{UUID}", "--all-root", folder / "root.part", tree], timeout=peers.SETTLE)
        (folder / "root.part").rename(root)
        for path in (tree, package):
            shutil.rmtree(path)
    initrd = (built / manifest.artifact("initrd").path).read_bytes()
    kernel_image = (built / manifest.artifact("kernel").path).read_bytes()
    boot.write_bytes(kernel_image + zstandard.ZstdCompressor(level=INITRD_LEVEL).compress(initrd))
    return {"root": root, "uki": boot}
