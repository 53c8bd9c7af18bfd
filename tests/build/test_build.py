"""The real pipeline: equal inputs give equal bytes whoever builds, nothing is made twice, and refusals name the cure.

One release is locked once. Two builders at once build it in one cache, and beside them another user does in a cache
and folders of its own. That user exists only in a mount namespace of its own: the machine keeps no trace.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from hostctl_qemu.loader import parse_os_release
from hostctl_qemu.pe import profiles, read_uki

from hostctl.compose import bzimage
from hostctl.compose.lock import Lock, cache_folder, load_lock
from hostctl.compose.packages import deb_path, fetch_packages
from hostctl.repository.build import read_build

CHECKOUT = Path(__file__).parents[2]
RELEASE = 'version: 1\nname: edge\nrelease: "1"\nfiles: overlay\napparmor: [reader]\n'
PROFILE = "include <tunables/global>\nprofile reader {\n  include <abstractions/base>\n  /srv/** r,\n}\n"
OTHER = 64990  # user and group id that no Debian system hands out
SECONDS = 600

# Words reach it as arguments: $1 folder of the user, $2 user id, the count of closed folders and these, the count of
# folders that the user must reach and these, then the command.
AS_OTHER = """set -e
home=$1 id=$2
shift 2
for name in passwd group subuid subgid; do cp /etc/$name "$home/$name"; done
echo "other:x:$id:$id::$home:/bin/sh" >>"$home/passwd"
echo "other:x:$id:" >>"$home/group"
for name in subuid subgid; do echo "other:900000:65536" >>"$home/$name"; done
for name in passwd group subuid subgid; do mount --bind "$home/$name" /etc/$name; done
closed= reached= count=$1; shift
while [ "$count" -gt 0 ]; do closed="$closed $1"; shift; count=$((count - 1)); done
count=$1; shift
mkdir "$home/stage"
mount -t tmpfs stage "$home/stage"
while [ "$count" -gt 0 ]; do
  reached="$reached $1"; mkdir -p "$home/stage$1"; mount --rbind "$1" "$home/stage$1"; shift; count=$((count - 1))
done
for path in $closed; do mount -t tmpfs -o mode=755 open "$path"; done
for path in $reached; do mkdir -p "$path"; mount --rbind "$home/stage$path" "$path"; done
exec setpriv --reuid="$id" --regid="$id" --clear-groups -- "$@"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with a release, its lock and its keys, and the cache of whoever builds there."""

    folder: Path

    def hostctl(self, *words: str | Path) -> tuple[str, ...]:
        """Return the words that run hostctl here."""
        variables = (f"HOSTCTL_CACHE={self.folder / 'cache'}", f"HOME={self.folder}", "TMPDIR=/tmp")
        return ("env", *variables, sys.executable, "-m", "hostctl", *map(str, words))

    def build(self, output: str) -> tuple[str, ...]:
        """Return the words that build the release."""
        return self.hostctl("build", self.folder / "release.yaml", "-o", self.folder / output)

    def manifest(self, output: str) -> bytes:
        """Return the manifest of a build."""
        return (self.folder / output / "manifest.json").read_bytes()


def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever comes of it."""
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False, cwd="/"
    )


def stages(stderr: str) -> tuple[set[str], set[str]]:
    """Return the names of the stages that were made, and of those that were found."""
    lines = re.findall(r"^✓ (\S+) +[0-9.]+ s( +unchanged)?$", stderr, re.MULTILINE)
    return {name for name, note in lines if not note}, {name for name, note in lines if note}


def provide(lock: Lock, cache: Path) -> None:
    """Fill a cache with the locked packages, which the tester's own cache has or gets."""
    for path in fetch_packages((*lock.host, *lock.kernel, *lock.tools), cache_folder()).values():
        target = cache / "debs" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def closed(path: Path) -> Path | None:
    """Return the topmost folder on the way to ``path`` that not everybody may enter."""
    return next((parent for parent in reversed((path, *path.parents)) if not parent.stat().st_mode & 1), None)


def as_other(home: Path, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that run a command as a user without privileges, who reaches Python and this checkout."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), CHECKOUT}
    hidden = {path: top for path in sorted(needed) if (top := closed(path))}
    tops, paths = sorted(set(map(str, hidden.values()))), [str(path) for path in hidden]
    counted = (str(len(tops)), *tops, str(len(paths)), *paths)
    return ("unshare", "--mount", "sh", "-c", AS_OTHER, "other", str(home), str(OTHER), *counted, *words)


def make_site(folder: Path) -> Site:
    """Make a release with an overlay, its keys and its lock."""
    site = Site(folder)
    folder.chmod(0o755)
    (folder / "release.yaml").write_text(RELEASE)
    (folder / "reader").write_text(PROFILE)
    (folder / "overlay/etc").mkdir(parents=True)
    (folder / "overlay/etc/motd.d").write_text("first\n")
    for words in (("keys", "init", folder / "keys"), ("lock", folder / "release.yaml")):
        done = run(site.hostctl(*words))
        assert done.returncode == 0, done.stderr
    provide(load_lock(folder / "release.lock"), folder / "cache")
    return site


def make_other(site: Site, home: Path) -> tuple[Site, tuple[str, ...]]:
    """Copy a site for another user, with an empty cache of stages; return it and the words that build there."""
    other = Site(home / "a longer name")
    for name in ("overlay", "keys", "cache/debs"):
        shutil.copytree(site.folder / name, other.folder / name)
    for name in ("release.yaml", "release.lock", "reader"):
        shutil.copyfile(site.folder / name, other.folder / name)
    if os.geteuid() != 0:  # there is no other user to become
        return other, other.build("out")
    for path in (home, *home.rglob("*")):
        os.chown(path, OTHER, OTHER)
    return other, as_other(home, other.build("out"))


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Site, Site]]:
    """Return a site whose release two builders built at once, into ``one`` and ``two``, and the other user's."""
    with (
        tempfile.TemporaryDirectory(prefix="hostctl-build-") as folder,
        tempfile.TemporaryDirectory(prefix="hostctl-other-") as home,
    ):
        site = make_site(Path(folder))
        other, words = make_other(site, Path(home))
        builders = [
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
            for argv in (site.build("one"), site.build("two"), words)
        ]
        errors = [builder.communicate(timeout=SECONDS)[1] for builder in builders]
        print(*errors, sep="\n")
        assert [builder.returncode for builder in builders] == [0, 0, 0]
        yield site, other


@pytest.fixture
def site(built: tuple[Site, Site]) -> Site:
    """Return the site."""
    return built[0]


def test_two_builders_at_once_make_each_stage_once(site: Site) -> None:
    assert site.manifest("one") == site.manifest("two")
    made = [path.name.partition("-")[0] for path in (site.folder / "cache/stages").iterdir() if path.name[0] != "."]
    assert sorted(made) == sorted(set(made))


def test_nothing_changed_takes_less_than_three_seconds(site: Site) -> None:
    seconds = []
    for _ in range(3):  # the quickest counts: the machine may have other work
        begun = time.monotonic()
        done = run(site.build("one"))
        seconds.append(time.monotonic() - begun)
        assert done.returncode == 0, done.stderr
        assert stages(done.stderr)[0] == {"packages"}  # it hashes what the cache has
    assert min(seconds) < 3


def test_another_user_makes_the_same_bytes(built: tuple[Site, Site]) -> None:
    site, other = built
    assert other.manifest("out") == site.manifest("one")
    assert len([path for path in (other.folder / "cache/stages").iterdir() if path.name[0] != "."]) == 12
    if os.geteuid() == 0:
        assert (other.folder / "out/manifest.json").stat().st_uid == OTHER


def initrd_files(archive: bytes) -> dict[str, bytes]:
    """Return the contents of the regular files in an uncompressed cpio archive, by path."""
    found, position = {}, 0
    while archive[position : position + 6] == b"070701":
        numbers = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        start = position + 110
        data = -(-(start + numbers[11]) // 4) * 4
        if stat.S_ISREG(numbers[1]):
            found[archive[start : start + numbers[11] - 1].decode()] = archive[data : data + numbers[6]]
        position = -(-(data + numbers[6]) // 4) * 4
    return found


def test_the_boot_image_holds_kernel_and_initrd_as_patches_see_through_them(site: Site) -> None:
    out = site.folder / "one"
    assert json.loads(site.manifest("one"))["notes"] == []
    uki = read_uki((out / "edge_1.efi").read_bytes())
    stock = (out / "edge_1.vmlinuz").read_bytes()
    plain = bzimage.decompress(stock, bzimage.parse(stock))
    assert plain[:4] == b"\x7fELF"
    assert bzimage.decompress(uki.kernel, bzimage.parse(uki.kernel)) == plain
    assert plain[1 << 21 : (1 << 21) + 65536] in uki.kernel
    assert (out / "edge_1.initrd.cpio").read_bytes() in uki.initrd


def test_the_recovery_is_a_profile_that_shares_all_but_a_word_and_sorts_last(site: Site) -> None:
    image = (site.folder / "one/edge_1.efi").read_bytes()
    release, recovery = profiles(image)
    assert recovery[".cmdline"].rstrip(b"\0") == release[".cmdline"].rstrip(b"\0") + b" hostctl.recovery"
    ids = [parse_os_release(profile[".osrel"])["IMAGE_ID"] for profile in (release, recovery)]
    assert ids == ["edge", "edge~recovery"]
    assert sorted(ids) == ids
    assert {name for name in release if release[name] != recovery[name]} == {".profile", ".osrel", ".cmdline"}
    kernel = release[".linux"][1 << 21 : (1 << 21) + 4096]
    assert image.count(kernel) == 1


def test_the_payload_makes_root_and_boot_image(site: Site, tmp_path: Path) -> None:
    out = site.folder / "one"
    build = read_build(out, tmp_path)  # applies it as a host would, and compares
    names = {
        build.release.index.sha256: "edge_1.payload.index",
        build.release.segments.sha256: "edge_1.payload.segments",
    }
    assert {digest: path.name for digest, path in build.payloads.items() if digest in names} == names


def test_what_the_initrd_shares_with_the_root_is_the_same_and_only_the_boot_image_has_both(site: Site) -> None:
    (folder,) = (site.folder / "cache/stages").glob("customise-*")
    own = {"init", "bin/busybox", "modules/order"}
    files = initrd_files((site.folder / "one/edge_1.initrd.cpio").read_bytes())
    wanted = {path: hashlib.sha256(data).digest() for path, data in files.items() if path not in own}
    sizes, seen = {len(data) for data in files.values()}, set()
    with tarfile.open(folder / "root.tar") as root:
        for member in root:
            assert not PurePosixPath(member.name).name.startswith("vmlinuz"), member.name
            assert member.isdir() or not member.name.startswith("boot/"), member.name
            file = root.extractfile(member) if member.isreg() and member.size in sizes else None
            if file is not None:
                seen.add(hashlib.sha256(file.read()).digest())
    assert [path for path, digest in wanted.items() if digest not in seen] == []


def test_no_program_compiles_python_at_its_start(site: Site) -> None:
    (folder,) = (site.folder / "cache/stages").glob("customise-*")
    sources, compiled = set[PurePosixPath](), dict[PurePosixPath, bytes]()
    with tarfile.open(folder / "root.tar") as root:
        for member in root:
            path = PurePosixPath(member.name)
            if path.suffix == ".py" and path.is_relative_to("usr/lib/python3.13"):
                sources.add(path)
            elif path.suffix == ".pyc":
                file = root.extractfile(member)
                assert file is not None, path
                compiled[path] = file.read(8)[4:]
    assert len(sources) > 300
    assert {path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc" for path in sources} <= compiled.keys()
    # PEP 552: 1 is a hash of the source that nobody compares. Sources keep no times, so what has times is stale.
    assert {path: flags for path, flags in compiled.items() if flags != b"\1\0\0\0"} == {}


def test_an_installed_wheel_makes_the_same_release_outside_the_checkout(site: Site, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    done = run((*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(CHECKOUT)))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    done = run((*pip, "install", "--no-deps", "--target", str(tmp_path / "installed"), str(wheel)))
    assert done.returncode == 0, done.stderr
    installed = f"PYTHONPATH={tmp_path / 'installed'}"
    done = run(("env", installed, sys.executable, "-c", "import hostctl, hostctl_qemu; print(hostctl.__file__)"))
    assert done.stdout.strip() == str(tmp_path / "installed/hostctl/__init__.py")
    done = run(("env", installed, *site.build("installed")))
    assert done.returncode == 0, done.stderr
    assert stages(done.stderr)[0] == {"packages"}  # it finds everything else that the checkout made
    assert site.manifest("installed") == site.manifest("one")


def test_a_changed_file_rebuilds_no_package_stage(site: Site) -> None:
    before = json.loads(site.manifest("one"))
    (site.folder / "overlay/etc/motd.d").write_text("second\n")
    done = run(site.build("changed"))
    assert done.returncode == 0, done.stderr
    made, found = stages(done.stderr)
    assert found == {"tools", "kernel", "bootstrap", "initrd", "agent", "apparmor"}
    assert made == {"packages", "customise", "seal", "uki", "payload", "disk", "manifest"}
    assert json.loads(site.manifest("changed"))["root_hash"] != before["root_hash"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("profile reader {\n  nonsense,\n}\n", "reader:2: syntax error"),
        ("profile reader {\n  include <nothing>\n}\n", "reader:2: Could not open 'nothing'"),
        ("profile reader /usr/bin/cat {\n}\n", "reader: a profile must not name the programs"),
        ("profile a {\n}\nprofile b {\n}\n", "reader: must hold one profile, not 2"),
        ("/usr/bin/cat {\n}\n", "reader: '/usr/bin/cat' is not a profile's name"),
    ],
)
def test_what_is_wrong_with_a_profile_is_told_with_its_line(site: Site, text: str, expected: str) -> None:
    (site.folder / "reader").write_text(text)
    try:
        done = run(site.build("wrong"))
    finally:
        (site.folder / "reader").write_text(PROFILE)
    assert done.returncode != 0
    assert expected in done.stderr
    assert not (site.folder / "wrong/manifest.json").exists()


def test_a_package_with_other_bytes_is_refused_by_name(site: Site, tmp_path: Path) -> None:
    lock = json.loads((site.folder / "release.lock").read_text())
    package = lock["host"][0]
    package["url"] = "http://127.0.0.1:9/gone.deb"
    file = tmp_path / "release.lock"
    file.write_text(json.dumps(lock))
    cached = deb_path(site.folder / "cache", load_lock(file).host[0])
    data = cached.read_bytes()
    cached.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    try:
        done = run((*site.build("tampered"), "--lock", str(file)))
    finally:
        cached.write_bytes(data)
    assert done.returncode != 0
    assert f"{package['name']} {package['version']}" in done.stderr
    assert not (site.folder / "tampered/manifest.json").exists()


def test_a_root_that_is_too_large_names_its_limit(site: Site, tmp_path: Path) -> None:
    release = site.folder / "small.yaml"
    release.write_text(f"{RELEASE}limits: {{root: 64M}}\n")
    lock = ("--lock", str(site.folder / "release.lock"))
    done = run((*site.hostctl("build", release, "-o", tmp_path / "out"), *lock))
    assert done.returncode != 0
    assert "limits.root" in done.stderr


@pytest.mark.parametrize(("absent", "named"), [("release.lock", "hostctl lock"), ("keys", "hostctl keys init")])
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    site: Site, tmp_path: Path, absent: str, named: str
) -> None:
    for path in ("release.yaml", "release.lock", "keys"):
        if path != absent:
            (tmp_path / path).symlink_to(site.folder / path)
    done = run(site.hostctl("build", tmp_path / "release.yaml", "-o", tmp_path / "out"))
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr
