"""Which QEMU runs machines: this machine's own or, where that one is too old, Debian's next in the builder's cache.

Before 8.1, QEMU may translate guest code while another processor writes it. Linux rewrites its code whenever a static
key turns, as with the first hook of netfilter, by way of a breakpoint that no processor can meet afterwards; a stale
translation meets it, and the kernel dies of an `int3` in code that has none. Such a QEMU emulates one processor at a
time, which is safe and slower; `script/setup` then brings a newer one, whose packages are unpacked and never installed.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hostctl.compose.lock import cache_folder
from hostctl.compose.packages import DEFAULT_MIRROR, Apt, fetch_packages, known_packages, select
from hostctl.compose.tools import make_tools
from hostctl.run import CommandNotFoundError, run

QEMU = "qemu-system-x86_64"
SAFE = (8, 1)
"""The first version that translates a page with other processors' writes to it locked out."""
SUITE = "trixie"
PACKAGES = ("qemu-system-x86",)
FOLDER = "qemu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_DATA = ("usr/share/qemu", "usr/share/seabios")
_VERSION = re.compile(r"QEMU emulator version (\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Emulator:
    """A QEMU: the words that start it, and its version as major and minor number."""

    argv: tuple[str, ...]
    version: tuple[int, int]

    @property
    def threads(self) -> str:
        """How it may emulate several processors: `multi` at once, or `single`, one after the other."""
        return "multi" if self.version >= SAFE else "single"


def parse_version(text: str) -> tuple[int, int]:
    """Return major and minor number from what ``--version`` prints; (0, 0) if it is not QEMU's."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def unpacked_argv(root: Path) -> tuple[str, ...]:
    """Return the words that start the QEMU of a folder of unpacked packages, with its own libraries and firmware."""
    data = [word for name in _DATA for word in ("-L", str(root / name))]
    loader = (str(root / _LOADER), "--library-path", str(root / _LIBRARIES))
    return (*loader, str(root / "usr/bin" / QEMU), *data)


def _ask(argv: tuple[str, ...]) -> Emulator:
    return Emulator(argv=argv, version=parse_version(run((*argv, "--version"), timeout=60).text))


def find_emulator(cache: Path) -> Emulator:
    """Return the QEMU to use: the one in the builder's cache if there is one, else this machine's.

    Args:
        cache: the builder's cache.

    Raises:
        CommandNotFoundError: there is none.
    """
    root = cache / FOLDER
    if root.is_dir():
        return _ask(unpacked_argv(root))
    try:
        return _ask((QEMU,))
    except CommandNotFoundError as error:
        raise CommandNotFoundError(f"{QEMU} is not installed", hint="script/setup installs it") from error


def bring(cache: Path) -> Emulator:
    """Bring a QEMU into the builder's cache, from Debian's signed archive.

    Args:
        cache: the builder's cache.

    Raises:
        PackageResolutionError, PackageFetchError, CommandError: it could not be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        apt = Apt(Path(folder), DEFAULT_MIRROR, SUITE)
        apt.update()
        indexes = [(uri, path.read_text()) for uri, path in apt.indexes()]
        packages = select(apt.resolve(PACKAGES), known_packages(indexes))
    debs = fetch_packages(packages, cache)
    temporary = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=cache))
    try:
        make_tools(debs.items(), temporary)
        temporary.chmod(0o755)
        shutil.rmtree(cache / FOLDER, ignore_errors=True)  # one that does not run
        temporary.rename(cache / FOLDER)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return find_emulator(cache)


def main() -> int:
    """Bring a newer QEMU if the present one cannot emulate several processors at once; else do nothing."""
    cache = cache_folder()
    if find_emulator(cache).version < SAFE:
        major, minor = bring(cache).version
        print(f"QEMU {major}.{minor} is in {cache / FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
