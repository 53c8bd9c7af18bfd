"""Releases for the tests, built by the real command line and kept in the cache, so that a second run is fast.

Keys are made once a machine, the lock once a day, releases once for each state of the sources. One run of the tests
works at a time: two machines under emulation on two cores only make each other late.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.compose.lock import cache_folder
from hostctl.compose.packages import HOST_PACKAGES, TOOLS_PACKAGES

CHECKOUT = Path(__file__).resolve().parents[4]
IMAGES = CHECKOUT / "tests/vm/images"
SOURCES = ("hostctl", "rootfs", "units", "tests/vm/images")
NAME = "vmtest"
LOCK_SECONDS = 24 * 3600.0
BUILD_SECONDS = 1800.0
KEPT_STATES = 2  # of the sources: builds of older ones are removed
IMAGE = "box.oci.tar"
BULKY = ("*.disk.raw", "*.verity")  # not needed to publish a release

PROBE = "usr/lib/systemd/system/probe.service"
_WANTS = "usr/lib/systemd/system/multi-user.target.wants/"


def unit(command: str, *, after: str = "") -> str:
    """Return a unit that runs ``command`` once at boot and stays active if that succeeds."""
    order = f"After={after}\n" if after else ""
    return f"[Unit]\nDescription=Test\n{order}[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={command}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A release of the tests: what differs from the others."""

    version: str
    tries: int = 1
    deadline: str = "5m"
    cmdline: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    """Units that its multi-user.target starts."""
    full: bool = False
    """Keep what only a first boot needs."""
    baked: bool = False
    """Has the image of the tests."""
    profiles: Mapping[str, str] = field(default_factory=dict)
    """Its AppArmor profiles."""

    def declaration(self) -> str:
        """Return its release.yaml."""
        words = ", ".join(self.cmdline)
        boot = f"{{tries: {self.tries}, deadline: {self.deadline}, cmdline: [{words}]}}"
        images = f"images: [{IMAGE}]\n" if self.baked else ""
        profiles = f"apparmor: [{', '.join(self.profiles)}]\n" if self.profiles else ""
        return f'version: 1\nname: {NAME}\nrelease: "{self.version}"\nfiles: overlay\nboot: {boot}\n{images}{profiles}'


GOOD_PROBE = {"probe.service": unit("/usr/bin/true")}
PROFILES = {
    "hostctl-default": (CHECKOUT / "examples/apparmor/profiles/hostctl-default").read_text(),
    "no-page": """\
include <tunables/global>
profile no-page flags=(attach_disconnected, mediate_deleted) {
  include <abstractions/base>
  file,
  capability,
  deny /srv/index.html r,
}
""",
}
BASE = Spec(version="1", units=GOOD_PROBE, full=True, baked=True, profiles=PROFILES)
NEXT = Spec(version="2", units=GOOD_PROBE, baked=True)
THIRD = Spec(version="9", units=GOOD_PROBE, baked=True)
"""Good as well, to go on to from 2 into the slot that 1 was in."""
UNHEALTHY = Spec(version="3", units={"probe.service": unit("/usr/bin/false")})
PANIC = Spec(version="4", units=GOOD_PROBE, cmdline=("rdinit=/nonexistent",))
"""The kernel starts no initrd, finds no root, and panics."""
OOPS = Spec(
    version="8",
    units={**GOOD_PROBE, "oops.service": unit("/bin/sh -c 'echo c > /proc/sysrq-trigger'", after="basic.target")},
)
"""The kernel crashes when user space is up."""
NO_AGENT = Spec(
    version="7",
    units={
        **GOOD_PROBE,
        "no-agent.service": "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=hostctl-rerender.service "
        "hostctl-health.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/usr/bin/mount --bind /dev/null /usr/bin/hostctl\n",
    },
)
"""Has no agent that could judge it."""
CRASH = Spec(version="5", units={**GOOD_PROBE, "crash.service": unit("/usr/bin/kill -SEGV 1", after="basic.target")})
"""Process 1 crashes."""
LATE = Spec(version="6", deadline="75s", units={"probe.service": unit("/usr/bin/sleep infinity", after="basic.target")})
"""Waits for ever, and so does the declared check in the tests that use it."""


class CommandFailed(AssertionError):  # noqa: N818 - reads as a failed test
    """A command line of ours failed where it must not."""


def hostctl(*words: str | Path, seconds: float = BUILD_SECONDS) -> str:
    """Run the command line of this checkout and return what it printed."""
    argv = [sys.executable, "-m", "hostctl", *map(str, words)]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise CommandFailed(f"hostctl {' '.join(argv[3:])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def sources_digest() -> str:
    """Return a hash of everything of this checkout that goes into a release."""
    digest = hashlib.sha256()
    for top in SOURCES:
        root = CHECKOUT / top
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{path.relative_to(CHECKOUT)} {content}\n".encode())
    return digest.hexdigest()[:16]


def segments(repository: Path) -> Path:
    """Return the segments of the only full payload in a repository, its largest file."""
    return max(repository.glob("payloads/*/*"), key=lambda path: path.stat().st_size)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of the machine's test runs; another run waits here."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Lab:
    """The folder of the tests in the cache, and what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        packages = hashlib.sha256(repr((HOST_PACKAGES, TOOLS_PACKAGES)).encode()).hexdigest()[:8]
        self.lock_file = folder / f"release-{packages}.lock"
        self.state = folder / f"builds-{sources_digest()}"
        self._lock_is_fresh = False

    @classmethod
    def default(cls) -> Lab:
        """Return the lab in the builder's cache."""
        return cls(cache_folder() / "vm-tests")

    def keys(self, name: str = "keys") -> Path:
        """Return a folder with signing keys; another name has others."""
        keys = self.folder / name
        if not (keys / "tuf/channel-stable.pem").exists():  # also those that an older hostctl left in the cache
            shutil.rmtree(keys, ignore_errors=True)
            hostctl("keys", "init", keys)
        return keys

    def prune(self) -> None:
        """Remove builds of former states of the sources."""
        states = sorted(self.folder.glob("builds-*"), key=lambda path: path.stat().st_mtime)
        for old in [path for path in states if path != self.state][: -KEPT_STATES + 1 or None]:
            shutil.rmtree(old)

    def build(self, spec: Spec) -> Path:
        """Return the folder of a built release; it is made when these sources have not made it yet."""
        inputs = (spec.declaration(), sorted(spec.units.items()), sorted(spec.profiles.items()))
        key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
        folder = self.state / f"{spec.version}-{key}"
        if (folder / "out/manifest.json").exists():
            self.state.touch()
            return folder / "out"
        shutil.rmtree(folder, ignore_errors=True)
        wants = folder / "overlay" / _WANTS
        wants.mkdir(parents=True)
        for name, text in spec.units.items():
            (wants.parent / name).write_text(text)
            (wants / name).symlink_to(f"../{name}")
        if spec.baked:
            shutil.copyfile(self.image(), folder / IMAGE)
        for name, text in spec.profiles.items():
            (folder / name).write_text(text)
        declaration = folder / "release.yaml"
        declaration.write_text(spec.declaration())
        partial = folder / "partial"
        hostctl("build", declaration, "-o", partial, "--keys", self.keys(), "--lock", self._lock(declaration))
        for pattern in () if spec.full else BULKY:
            for path in partial.glob(pattern):
                path.unlink()
        partial.rename(folder / "out")
        return folder / "out"

    def publish(self, repository: Path, *specs: Spec, keys: str = "keys", delta_from: tuple[str, ...] = ()) -> Path:
        """Publish releases, in order, with deltas from versions in the repository, and return the repository."""
        deltas = [word for version in delta_from for word in ("--delta-from", version)]
        for spec in specs:
            hostctl("publish", self.build(spec), "--repository", repository, "--keys", self.keys(keys), *deltas)
        return repository

    def image(self, name: str = "box") -> Path:
        """Return the archive of an image of the tests, ``localhost/NAME:1``, made of today's packages."""
        made = self.state / f"{name}.oci.tar"
        if not made.exists():
            folder = self.state / name
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(IMAGES / name, folder)
            hostctl("image", "build", folder / "image.yaml", "-o", made)
        return made

    def _lock(self, declaration: Path) -> Path:
        """Return the lock of today's packages; an older one when the archive cannot be reached."""
        age = time.time() - self.lock_file.stat().st_mtime if self.lock_file.exists() else LOCK_SECONDS
        if age >= LOCK_SECONDS and not self._lock_is_fresh:
            hostctl("lock", declaration, "-o", self.lock_file, "--fetch")
        self._lock_is_fresh = True
        return self.lock_file
