"""Conditions that the measurements share: keys, locks, builds and machines, all below ``build/bench``.

What is made here is kept between runs, but for machines: each starts from a disk of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from hostctl_qemu.machine import Forward, MachineConfig
from hostctl_qemu.ssh import Ssh
from hostctl_qemu.state import load_state, make_config

from hostctl.compose.lock import cache_folder, load_lock
from hostctl.compose.manifest import load_manifest
from hostctl.compose.packages import deb_path
from hostctl.errors import HostctlError
from hostctl.run import run

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/bench"
HOSTCTL = ROOT / ".venv/bin/hostctl"
KEYS = WORK / "keys"
SITE = WORK / "site.oci.tar"
SITE_IMAGE = ROOT / "examples/site/image.yaml"
BOOT_SECONDS = 600.0  # of a slow machine without KVM
POLL_SECONDS = 0.05


class BenchError(HostctlError):
    """The conditions of a measurement could not be made, or what is measured does not work."""

    id = "bench"


def hostctl(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run the builder's hostctl as a user would, and return what it said of its progress.

    Raises:
        BenchError: it failed; with what it said.
    """
    argv = [str(HOSTCTL), *map(str, words)]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    if done.returncode:
        raise BenchError(f"hostctl {words[0]} failed", details=done.stderr)
    return done.stderr


def make_keys() -> Path:
    """Return the folder of development keys, made once."""
    if not KEYS.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        hostctl("keys", "init", KEYS)
    return KEYS


def make_lock(release: Path) -> Path:
    """Return the lock of a release, made once, with all of its packages in the cache: the only step with downloads."""
    lock = WORK / f"{release.parent.name}.lock"
    if not lock.exists() or lock.stat().st_mtime < release.stat().st_mtime:
        WORK.mkdir(parents=True, exist_ok=True)
        hostctl("lock", release, "-o", lock, "--fetch")
    return lock


def make_site() -> Path:
    """Return the OCI archive of examples/site, an nginx with one page."""
    WORK.mkdir(parents=True, exist_ok=True)
    hostctl("image", "build", SITE_IMAGE, "-o", SITE)
    return SITE


def build(release: Path) -> Path:
    """Build a release and return the folder with what was made."""
    output = WORK / f"{release.parent.name}-build"
    hostctl("build", release, "-o", output, "--keys", make_keys(), "--lock", make_lock(release))
    return output


def build_with(folder: Path, packages: Sequence[str], links: Mapping[str, str] | None = None) -> Path:
    """Build the release of a folder, with what our images leave out of some packages laid over the root.

    Args:
        folder: holds release.yaml, which brings the image of examples/site, and an overlay.
        packages: those whose programs and libraries are laid over, from the lock's own files.
        links: symbolic links besides, each with its target.
    """
    name = folder.name
    copy = WORK / name
    copy.mkdir(parents=True, exist_ok=True)
    site = make_site()
    shutil.copyfile(site, copy / site.name)
    shutil.copyfile(folder / "release.yaml", copy / "release.yaml")
    lock = make_lock(folder / "release.yaml")
    known = {package.name: package for package in load_lock(lock).host}
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        overlay = Path(temporary, "overlay")
        shutil.copytree(folder / "overlay", overlay)
        for package in packages:
            unpacked = Path(temporary, package)
            run(["dpkg-deb", "--extract", deb_path(cache_folder(), known[package]), unpacked])
            for part in ("usr/bin", "usr/lib", "usr/sbin"):
                if (unpacked / part).is_dir():
                    shutil.copytree(unpacked / part, overlay / part, symlinks=True, dirs_exist_ok=True)
        for link, target in (links or {}).items():
            path = overlay / link
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
        shutil.rmtree(copy / "overlay", ignore_errors=True)
        shutil.move(overlay, copy / "overlay")
    output = WORK / f"{name}-build"
    hostctl("build", copy / "release.yaml", "-o", output, "--keys", make_keys(), "--lock", lock)
    return output


def release_folder(name: str, text: str) -> Path:
    """Write a release declaration to a folder of its own and return its path."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "release.yaml"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def fresh_folder(name: str) -> Path:
    """Return the path of a machine's folder in which nothing is left of an earlier run."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def machine(
    built: Path,
    folder: Path,
    *,
    declaration: str | None,
    ports: Mapping[int, int] | None = None,
    direct: bool = True,
    memory: int = 2048,
) -> MachineConfig:
    """Return a machine that is ready to start.

    Args:
        built: the folder of the built release.
        folder: the machine's state.
        declaration: host.yaml of the first boot.
        ports: ports of this computer, each with the one of the machine that it leads to.
        direct: boot the kernel without firmware.
        memory: MiB.
    """
    forwards = tuple(Forward(host_port=here, guest_port=there) for here, there in (ports or {}).items())
    return make_config(
        built,
        load_manifest(built),
        folder,
        cache=cache_folder(),
        direct=direct,
        memory=memory,
        declaration=declaration.encode() if declaration is not None else None,
        forwards=forwards,
    )


def shell(folder: Path) -> Ssh:
    """Return the way into the machine of a folder, once it can be used.

    Raises:
        SshError: it did not let anybody in.
    """
    state = load_state(folder)
    if state is None:
        raise BenchError(f"no machine was prepared in {folder}")
    ssh = Ssh(folder=folder, port=state.ssh_port)
    ssh.wait_ready(BOOT_SECONDS)
    return ssh


def settle(ssh: Ssh) -> str:
    """Wait until the machine has finished booting, and return the state that systemd gives it."""
    return ssh.run(["systemctl", "is-system-running", "--wait"], seconds=BOOT_SECONDS, check=False).text.strip()


def run_inside(ssh: Ssh, script: str, words: Sequence[str], seconds: float) -> str:
    """Run a script of ``bench/guest`` on the machine, from standard input: nothing that is written there executes.

    Args:
        ssh: the way to the machine.
        script: file name of the script.
        words: its arguments.
        seconds: how long it may take.
    """
    source = (ROOT / "bench/guest" / script).read_bytes()
    return ssh.run(["python3", "-I", "-", *words], stdin=source, seconds=seconds).text


def answers(url: str) -> bool:
    """Tell whether a web server answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - addresses of our own machines
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def wait_for_answer(url: str, seconds: float = BOOT_SECONDS) -> None:
    """Return as soon as a web server answers; from outside there is no event to wait for.

    Raises:
        BenchError: it did not in time.
    """
    end = time.monotonic() + seconds
    while not answers(url):
        if time.monotonic() > end:
            raise BenchError(f"{url} did not answer within {seconds:g} s")
        time.sleep(POLL_SECONDS)


def environment_with_cache(cache: Path) -> dict[str, str]:
    """Return this process's environment with another cache of the builder."""
    return {**os.environ, "HOSTCTL_CACHE": str(cache)}
