"""Turns the bootstrapped packages into the tree of a host: drops what a host has no use for, lays our files over it.

Works on tar streams alone: nothing is unpacked, so it needs no privileges, and owners, modes and extended
attributes stay what the packages made them. The result is sorted, so equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hostctl.errors import HostctlError

# Packages that only install packages, or that others name as dependencies for what a host does not do. Their files
# leave the image; the bill of materials says so.
DROPPED_PACKAGES: tuple[str, ...] = (
    "adduser", "apt", "base-passwd", "containernetworking-plugins", "debconf", "debian-archive-keyring", "dirmngr",
    "dpkg", "gir1.2-girepository-2.0", "gir1.2-glib-2.0", "gnupg", "gnupg-l10n", "gpg", "gpg-agent", "gpgconf",
    "gpgsm", "libapt-pkg7.0", "libatomic1", "libdebconfclient0", "libgirepository-1.0-1", "libglib2.0-0t64",
    "libldap2", "libnpth0t64", "libksba8", "libsasl2-2", "libsasl2-modules-db", "libtext-charwidth-perl",
    "libtext-wrapi18n-perl", "netavark", "perl-base", "pinentry-curses", "python3-gi", "python3-psutil", "sqv",
    "systemd-boot-efi", "ucf", "runit-helper", "sysvinit-utils", "iptables", "libip4tc2", "libip6tc2", "mawk",
    "debianutils", "ncurses-bin",
)  # fmt: skip

DROPPED_PATHS: tuple[str, ...] = (
    "boot", "dev", "etc/apt", "etc/cron.d", "etc/cron.daily", "etc/default", "etc/dpkg", "etc/fstab", "etc/hostname",
    "etc/init.d", "etc/kernel", "etc/logrotate.d", "etc/machine-id", "etc/motd", "etc/mtab", "etc/rc0.d", "etc/rc1.d",
    "etc/rc2.d", "etc/rc3.d", "etc/rc4.d", "etc/rc5.d", "etc/rc6.d", "etc/rcS.d", "etc/resolv.conf", "etc/skel",
    # Made by the package while it was installed: every host would share them, and no two builds would be equal.
    "etc/ssh/ssh_host_ecdsa_key", "etc/ssh/ssh_host_ecdsa_key.pub", "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub",
    "etc/systemd/system", "etc/ucf.conf", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "usr/games",
    "usr/include", "usr/lib/kernel", "usr/lib/python3.13/ensurepip", "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/lib2to3", "usr/lib/python3.13/pydoc_data", "usr/lib/python3.13/test",
    "usr/lib/python3.13/tkinter", "usr/lib/python3.13/turtledemo", "usr/lib/udev/hwdb.d",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base", "usr/local", "usr/share/bash-completion", "usr/share/bug",
    "usr/share/common-licenses",
    "usr/share/doc", "usr/share/doc-base", "usr/share/fish", "usr/share/info", "usr/share/initramfs-tools",
    "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/menu", "usr/share/perl5", "usr/share/pixmaps",
    "usr/share/python3/runtime.d", "usr/share/zsh", "usr/src", "var",
)  # fmt: skip

# Mount points and folders that must be there though nothing is in them.
FOLDERS: tuple[str, ...] = (
    "boot", "dev", "efi", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "usr/local", "usr/share/hostctl", "var",
)  # fmt: skip
LINKS: Mapping[str, str] = {
    "etc/mtab": "../proc/self/mounts",
    "etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
    "home": "var/home",
    "opt": "var/opt",
}
TOP = PurePosixPath()
SETUID_KEPT = frozenset({"usr/bin/sudo"})


class CustomiseError(HostctlError):
    """The bootstrapped tree or what is laid over it cannot be used."""

    id = "customise"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder of this machine whose files are laid at ``target`` (relative to the root), owned by root."""

    folder: Path
    target: PurePosixPath = TOP


@dataclass(frozen=True, kw_only=True, slots=True)
class Additions:
    """What is laid over the packages, in order; later entries replace earlier ones."""

    sources: tuple[Source, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    programs: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Member:
    """One entry of the result, and where its bytes come from."""

    info: tarfile.TarInfo
    data: bytes | None = None
    path: Path | None = None
    packed: tarfile.TarInfo | None = None


def _name(raw: str) -> str:
    path = PurePosixPath(raw)
    if path.is_absolute() or ".." in path.parts:
        raise CustomiseError(f"the bootstrapped tree holds the path {raw!r}")
    return str(path)


def package_files(archive: tarfile.TarFile, packages: Iterable[str]) -> frozenset[str]:
    """Return the paths that only ``packages`` brought, read from dpkg's database in the tree itself."""
    wanted = frozenset(packages)
    dropped: set[str] = set()
    kept: set[str] = set()
    for info in archive.getmembers():
        path = PurePosixPath(_name(info.name))
        if path.parent == PurePosixPath("var/lib/dpkg/info") and path.suffix == ".list":
            stream = archive.extractfile(info)
            lines = stream.read().decode().splitlines() if stream else []
            owner = path.stem.partition(":")[0]
            (dropped if owner in wanted else kept).update(_merged(line.lstrip("/")) for line in lines)
    return frozenset(dropped - kept)


def _merged(path: str) -> str:
    """Return where a packaged path really lies on a merged-/usr system."""
    first = path.partition("/")[0]
    return f"usr/{path}" if first in ("bin", "sbin", "lib", "lib64") and path != first else path


def _below(path: str, folders: frozenset[str]) -> bool:
    return path in folders or any(str(parent) in folders for parent in PurePosixPath(path).parents)


def read_member(bootstrap: Path, path: str) -> bytes:
    """Return the content of the file at ``path`` in the bootstrapped tree.

    Raises:
        CustomiseError: there is no such file.
    """
    with tarfile.open(bootstrap) as archive:
        for info in archive:
            if _name(info.name) == path and info.isreg() and (stream := archive.extractfile(info)):
                return stream.read()
    raise CustomiseError(f"the bootstrapped tree has no {path}")


def customise(bootstrap: Path, additions: Additions, output: Path) -> None:
    """Write the tar of a host's root.

    Args:
        bootstrap: tar of the installed packages.
        additions: what is laid over them.
        output: the tar to write.

    Raises:
        CustomiseError: a path leads outside the tree.
    """
    with tarfile.open(bootstrap) as archive:
        members = _kept(archive)
        for source in additions.sources:
            _lay(members, source)
        for mode, files in ((0o644, additions.files), (0o755, additions.programs)):
            for path, data in files.items():
                _put(members, path, _Member(info=_info(path, stat.S_IFREG | mode, len(data)), data=data))
        for path, target in {**LINKS, **additions.links}.items():
            info = _info(path, stat.S_IFLNK | 0o777, 0)
            info.linkname = target
            _put(members, path, _Member(info=info))
        for path in FOLDERS:
            members.setdefault(path, _Member(info=_info(path, stat.S_IFDIR | 0o755, 0)))
        _write(archive, members, output)


def _kept(archive: tarfile.TarFile) -> dict[str, _Member]:
    unwanted = frozenset(DROPPED_PATHS) | package_files(archive, DROPPED_PACKAGES)
    exact = unwanted - frozenset(DROPPED_PATHS)
    folders = frozenset(DROPPED_PATHS)
    members: dict[str, _Member] = {}
    for info in archive.getmembers():
        path = _name(info.name)
        if path == "." or path in exact or _below(path, folders):
            continue
        if info.ischr() or info.isblk() or info.isfifo():
            continue
        info.name = path
        if info.isreg() and path not in SETUID_KEPT:
            info.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        members[path] = _Member(info=info, packed=info if info.isreg() else None)
    return members


def _info(path: str, mode: int, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    kinds = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    info.type = kinds[stat.S_IFMT(mode)]
    info.mode = stat.S_IMODE(mode)
    info.size = size
    return info


def _put(members: dict[str, _Member], path: str, member: _Member) -> None:
    """Place one entry, with the folders above it."""
    for parent in PurePosixPath(path).parents:
        name = str(parent)
        if name != ".":
            members.setdefault(name, _Member(info=_info(name, stat.S_IFDIR | 0o755, 0)))
    members[path] = member


def _lay(members: dict[str, _Member], source: Source) -> None:
    for path in sorted(source.folder.rglob("*")):
        name = _merged(str(source.target / path.relative_to(source.folder).as_posix()))
        status = path.lstat()
        if path.is_symlink():
            info = _info(name, stat.S_IFLNK | 0o777, 0)
            info.linkname = str(path.readlink())
            _put(members, name, _Member(info=info))
        elif path.is_dir():
            existing = members.get(name)
            if existing is None or not (existing.info.isdir() or existing.info.issym()):
                _put(members, name, _Member(info=_info(name, stat.S_IFDIR | 0o755, 0)))
        elif path.is_file():
            # Git keeps only the executable bit, so that is all that counts: equal checkouts give equal images.
            mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            _put(members, name, _Member(info=_info(name, stat.S_IFREG | mode, status.st_size), path=path))
        else:
            raise CustomiseError(f"{path} is neither a file, a folder nor a link")


def _write(archive: tarfile.TarFile, members: Mapping[str, _Member], output: Path) -> None:
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as result:
        # Without an entry of its own the root would be writable by all, and sshd rightly refuses such a machine.
        result.addfile(_info("./", stat.S_IFDIR | 0o755, 0))
        for path in sorted(members):
            member = members[path]
            info = member.info
            info.name, info.mtime, info.uname, info.gname = path, 0, "", ""
            if info.islnk() and info.linkname not in members:
                raise CustomiseError(f"{path} is a link to {info.linkname}, which is dropped")
            if member.path is not None:
                with member.path.open("rb") as stream:
                    result.addfile(info, stream)
            elif member.packed is not None:
                result.addfile(info, archive.extractfile(member.packed))
            else:
                result.addfile(info, io.BytesIO(member.data) if member.data is not None else None)
