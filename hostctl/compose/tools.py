"""The tools of a build, at the locked versions: packages extracted into a folder, entered by a chroot.

No maintainer script runs, so the folder depends on the packages' bytes only. It is entered through fresh
mount and process namespaces, as root or as a plain user. It keeps versions fixed; it is not a security
border: what runs in it sees every folder that is bound.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostctl.compose.packages import Package
from hostctl.run import ENVIRONMENT, CommandError, failure

MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders that are links into /usr (Debian's base-files, usr-merge)."""
STAGE = "enter"
"""Empty folder of the tools that their root is put together over."""
EXTRACT_TIMEOUT = 300.0  # seconds a package
DEVICES = ("null", "zero", "random", "urandom")

# Words reach the script as arguments only: $1 root, $2 folder to start in, $3 number of binds, binds, command.
# The root that is entered lies on a tmpfs of its own, over a folder that the tools have for it: what is mounted or
# written outside the binds is gone with the mount namespace, and the cached tools stay as they were made. The device
# nodes are bound one by one: a plain user cannot make nodes.
_ENTER = f"""set -e
tools=$1 cwd=$2 count=$3
shift 3
root=$tools/{STAGE}
mount -t tmpfs -o mode=755 tools "$root"
for name in {" ".join(MERGED)}; do
  ln -s "usr/$name" "$root/$name"
done
cp -a "$tools/etc" "$root/etc"
mkdir "$root/usr" "$root/dev" "$root/proc" "$root/run" "$root/root" "$root/var"
mkdir -m 1777 "$root/tmp"
mount --bind "$tools/usr" "$root/usr"
mount -o remount,bind,ro "$root/usr"
for name in {" ".join(DEVICES)}; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mount -t proc proc "$root/proc"
while [ "$count" -gt 0 ]; do
  mkdir -p "$root$1"
  mount --rbind "$1" "$root$1"
  shift
  count=$((count - 1))
done
exec chroot "$root" /usr/bin/env -C "$cwd" "$@"
"""


def unpack(deb: Path, root: Path) -> None:
    """Extract the files of a package over ``root``, running nothing of it.

    Raises:
        CommandError: it is not a package, or tar cannot write its files.
    """
    reader_argv = ("dpkg-deb", "--fsys-tarfile", str(deb))
    writer_argv = ("tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner")
    env = dict(ENVIRONMENT)
    with subprocess.Popen(reader_argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env) as reader:
        writer = subprocess.run(
            writer_argv,
            stdin=reader.stdout,
            stderr=subprocess.PIPE,
            env=env,
            timeout=EXTRACT_TIMEOUT,
            check=False,
        )
    if writer.returncode:
        raise failure(writer_argv, writer.returncode, writer.stderr)
    if reader.returncode:
        raise CommandError(f"{deb.name} is not a package", details=f"dpkg-deb: exit status {reader.returncode}")


def make_tools(debs: Iterable[tuple[Package, Path]], root: Path) -> None:
    """Fill the empty folder ``root`` with the files of the tools' packages.

    Args:
        debs: the packages of the lock's tools set and where their bytes lie.
        root: becomes the root of the tools.
    """
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in (STAGE, "etc"):
        (root / name).mkdir()
    for _, deb in sorted(debs):
        unpack(deb, root)


@dataclass(frozen=True, slots=True)
class ToolsRoot:
    """A folder that :func:`make_tools` filled."""

    path: Path

    def argv(self, words: Sequence[str], binds: Sequence[Path], cwd: Path | None = None) -> tuple[str, ...]:
        """Return the words that run a program of the tools.

        Args:
            words: the program and its arguments.
            binds: folders it sees, at the same absolute paths; none may lie below /usr.
            cwd: the folder it runs in, one it sees; none means its root.
        """
        identity = () if os.geteuid() == 0 else ("--map-root-user",)
        folders = sorted({str(folder.absolute()) for folder in binds})
        spaces = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        script = ("sh", "-c", _ENTER, "tools", str(self.path.absolute()), str(cwd or "/"), str(len(folders)))
        return ("unshare", *identity, *spaces, "--", *script, *folders, *words)
