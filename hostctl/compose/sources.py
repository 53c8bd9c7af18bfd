"""What a host image is laid over with: our own trees, the agent's code, the release's files. Reads, never writes."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hostctl.compose import apparmor
from hostctl.compose.customise import Additions, Source
from hostctl.compose.host_units import SYSTEM, unit_links
from hostctl.config.release import ReleaseDeclaration
from hostctl.data import data_folder

PACKAGE = "usr/lib/python3/dist-packages/hostctl"
BAKED = "usr/share/hostctl/images"
"""Where a host looks for the images that came with its release (hostctl.layout)."""
# What composes and emulates has no place on a host.
BUILDER_ONLY = frozenset({"compose", "data"})
BUILDER_MODULES = frozenset(
    {
        *(f"cli/{verb}.py" for verb in ("build", "image_build", "keys", "lock", "publish", "sbom", "vm")),
        *(f"cli/{module}.py" for module in ("repo", "repo_keys", "repo_look", "repository")),
        "image/build.py",
        "image/rootfs.py",
        *(
            f"repository/{module}.py"
            for module in (
                *("applied", "build", "drafts", "expire", "keyring", "offers", "publish", "roles"),
                *("root_hash", "rotate", "serve", "stats", "store", "stored", "terms", "unpack", "verify"),
            )
        ),
        *(f"payload/{name}.py" for name in ("boot_image", "delta", "likely", "pack", "pieces")),
    }
)
LAUNCHER = b"""#!/usr/bin/python3 -IB
import sys
from hostctl.__main__ import run
sys.exit(run())
"""


def tree_id(folder: Path, *, skip: frozenset[str] = frozenset()) -> str:
    """Return a hash of every path, kind, executable bit and content below ``folder``; times do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in skip or "__pycache__" in relative.parts:
            continue
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode) | (status.st_mode & stat.S_IXUSR if stat.S_ISREG(status.st_mode) else 0)
        content = b""
        if path.is_symlink():
            content = str(path.readlink()).encode()
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(f"{relative.as_posix()}\0{kind:o}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def os_release(base: str, release: ReleaseDeclaration) -> bytes:
    """Return ``os-release`` with the image's identity (os-release(5), IMAGE_ID and IMAGE_VERSION).

    Args:
        base: the text that came with Debian.
        release: whose name and version to write.
    """
    ours = {"IMAGE_ID": str(release.name), "IMAGE_VERSION": str(release.release)}
    kept = [line for line in base.splitlines() if line.partition("=")[0] not in ours]
    return "\n".join([*kept, *(f'{key}="{value}"' for key, value in ours.items())]).encode() + b"\n"


def deadline(release: ReleaseDeclaration) -> bytes:
    """Return the drop-in that sets how long a boot of this release may take."""
    return f"[Timer]\nOnBootSec=\nOnBootSec={float(release.boot.deadline):g}s\n".encode()


def additions(
    release: ReleaseDeclaration,
    *,
    modules: Path,
    agent: Path,
    release_file: Path,
    debian_os_release: str,
    root_keys: bytes,
    baked: Path | None = None,
    profiles: Path | None = None,
) -> Additions:
    """Return everything that is laid over the packages, in order.

    Args:
        release: the declaration.
        modules: tree with the kernel's modules.
        agent: tree with the compiled package, below :data:`PACKAGE`.
        release_file: path of release.yaml, which ``files`` is relative to.
        debian_os_release: text of Debian's os-release.
        root_keys: the TUF root metadata that a host's trust starts from.
        baked: store of the images that come with the release, if there are any.
        profiles: its compiled AppArmor profiles, if there are any.
    """
    sources = [
        Source(folder=modules),
        Source(folder=agent),
        Source(folder=data_folder("rootfs") / "overlay"),
        Source(folder=data_folder("units") / "host", target=PurePosixPath(SYSTEM)),
    ]
    if baked is not None:
        sources.append(Source(folder=baked, target=PurePosixPath(BAKED)))
    if profiles is not None:
        sources.append(Source(folder=profiles, target=PurePosixPath(apparmor.FOLDER)))
    if release.files is not None:
        sources.append(Source(folder=release_file.parent / str(release.files)))
    files = {
        "etc/hostname": f"{release.name}\n".encode(),
        "etc/machine-id": b"",
        "usr/lib/os-release": os_release(debian_os_release, release),
        "usr/share/hostctl/tuf/root.json": root_keys,
        f"{SYSTEM}/hostctl-deadline.timer.d/10-release.conf": deadline(release),
    }
    bus = data_folder("units") / "dbus"
    files |= {f"usr/share/dbus-1/system.d/{path.name}": path.read_bytes() for path in bus.glob("*.conf")}
    files |= {f"usr/share/dbus-1/system-services/{path.name}": path.read_bytes() for path in bus.glob("*.service")}
    programs = {"usr/bin/hostctl": LAUNCHER}
    return Additions(sources=tuple(sources), files=files, programs=programs, links=unit_links())


def agent_files(package: Path) -> Iterable[Path]:
    """Return the package's modules that go onto a host."""
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] not in BUILDER_ONLY and relative.as_posix() not in BUILDER_MODULES:
            yield path
