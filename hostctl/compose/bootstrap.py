"""Installs the locked packages into the root of a host, as one tar, with nothing from any mirror.

mmdebstrap is given a repository that holds exactly the locked packages, so apt can choose nothing else. Maintainer
scripts run, as the packages expect. Compiled Python is made anew without times, so that it stays valid whatever
time its source carries. It works as root and, where user namespaces allow, as a plain user.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostctl.compose.packages import ARCHITECTURE, Package
from hostctl.run import run

TIMEOUT = 1800.0  # seconds; a slow machine takes two minutes
EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
INCLUDED = ("/usr/share/doc/*/copyright",)
# mmdebstrap runs a hook with the root as $1; the words in it are ours alone. -B: the compiler would else leave what it
# loads itself, compiled with times, and take that for done; every program would compile these modules at its start.
COMPILE = (
    'find "$1"/usr/lib/python3* "$1/usr/share/python3" -name __pycache__ -prune -exec rm -r {} + && '
    'chroot "$1" python3 -I -B -m compileall -q -f -j2 --invalidation-mode unchecked-hash '
    "/usr/lib/python3 /usr/lib/python3.13"
)


def index_entry(control: str, package: Package) -> str:
    """Return a package's paragraph of the repository's index (deb-src-repository layout, flat).

    Args:
        control: the package's own control fields.
        package: what the lock says of it.
    """
    fields = f"Filename: ./{package.sha256}.deb\nSize: {package.size}\nSHA256: {package.sha256}\n"
    return f"{control.strip()}\n{fields}\n"


def make_repository(debs: Mapping[Package, Path], folder: Path) -> None:
    """Fill ``folder`` with a flat repository of exactly these packages."""
    entries: list[str] = []
    for package, path in sorted(debs.items()):
        target = folder / f"{package.sha256}.deb"
        try:
            target.hardlink_to(path)
        except OSError:  # another file system
            shutil.copyfile(path, target)
        entries.append(index_entry(run(["dpkg-deb", "--field", path]).text, package))
    (folder / "Packages").write_text("".join(entries))


def bootstrap_argv(repository: Path, names: Sequence[str], output: Path, *, root: bool) -> tuple[str, ...]:
    """Return the words of mmdebstrap.

    Args:
        repository: folder of :func:`make_repository`.
        names: every package of the lock's host set.
        output: the tar to write.
        root: whether the caller is root; else a user namespace stands in.
    """
    paths = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED]
    paths += [f"--dpkgopt=path-include={path}" for path in INCLUDED]
    return (
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        "--variant=essential",
        f"--architectures={ARCHITECTURE}",
        "--format=tar",
        f"--include={','.join(sorted(names))}",
        *paths,
        f"--customize-hook={COMPILE}",
        "",  # a flat repository belongs to no suite, and a named one would have to be found in it
        str(output),
        f"deb [trusted=yes] copy://{repository} ./",
    )


def bootstrap(debs: Mapping[Package, Path], output: Path, *, epoch: int) -> None:
    """Install the packages and write the root as a tar.

    Args:
        debs: the host set of the lock and where the packages' bytes lie.
        output: the tar to write.
        epoch: time that nothing in the tar is newer than, seconds since 1970.

    Raises:
        CommandError: mmdebstrap failed.
    """
    # Not below the cache: apt runs as another user id of the namespace, and a home folder may be closed to it.
    with tempfile.TemporaryDirectory(prefix="hostctl-debs-") as folder:
        repository = Path(folder)
        repository.chmod(0o755)
        make_repository(debs, repository)
        words = bootstrap_argv(repository, [package.name for package in debs], output, root=os.geteuid() == 0)
        run(words, env={"SOURCE_DATE_EPOCH": str(epoch)}, timeout=TIMEOUT)
