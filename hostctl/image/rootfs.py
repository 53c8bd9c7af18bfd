"""The layer of an image: Debian packages and a folder laid over them, as one sorted tar.

Works on tar streams: nothing is unpacked and no maintainer script runs, so it needs no privileges, owners stay what
the packages made them, and equal inputs give equal bytes.
"""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from hostctl.errors import HostctlError
from hostctl.run import ENVIRONMENT, CommandError

MERGED = ("bin", "lib", "lib64", "sbin")
FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var")
DROPPED = (
    *("usr/share/doc", "usr/share/doc-base", "usr/share/info", "usr/share/lintian", "usr/share/locale"),
    *("usr/share/man", "usr/share/bug", "usr/share/menu", "usr/share/bash-completion", "usr/lib/systemd"),
    *("etc/init.d", "etc/cron.d", "etc/cron.daily", "etc/logrotate.d", "var/cache", "var/lib/dpkg"),
)
PASSWD = b"root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"


class ImageTreeError(HostctlError):
    """The files of an image cannot be put together."""

    id = "image-tree"


Entry = tuple[tarfile.TarInfo, bytes]


def placed(raw: str) -> str:
    """Return where a packaged path lies on a merged-/usr system, relative to the root.

    Raises:
        ImageTreeError: it leads outside the root.
    """
    path = PurePosixPath(raw)
    if path.is_absolute() or ".." in path.parts:
        raise ImageTreeError(f"a package holds the path {raw!r}")
    return f"usr/{path}" if path.parts and path.parts[0] in MERGED else str(path)


def _info(path: str, mode: int, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE if stat.S_ISDIR(mode) else tarfile.REGTYPE
    info.mode, info.size, info.linkname = stat.S_IMODE(mode), size, link
    return info


def _dropped(path: str) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in DROPPED)


def add_package(entries: dict[str, Entry], stream: IO[bytes]) -> None:
    """Lay the files of a package, a tar stream, over ``entries``.

    Raises:
        ImageTreeError: a path leads outside, or a hard link to nothing.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            path = placed(info.name)
            if path in (".", *(f"usr/{name}" for name in MERGED)) and not info.isdir():
                continue
            if path == "." or _dropped(path) or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                continue
            content = archive.extractfile(info) if info.isreg() else None
            data = content.read() if content else b""
            if info.islnk():
                target = entries.get(placed(info.linkname))
                if target is None:
                    raise ImageTreeError(f"{path} is a hard link to {info.linkname}, which is not there")
                data = target[1]
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", len(data)
            info.name = path
            info.pax_headers = {}
            entries[path] = (info, data)


def add_folder(entries: dict[str, Entry], folder: Path) -> None:
    """Lay the files of a folder of this machine over ``entries``, owned by root.

    Raises:
        ImageTreeError: it is missing or holds something else than files, folders and links.
    """
    if not folder.is_dir():
        raise ImageTreeError(f"there is no folder {folder}")
    for path in sorted(folder.rglob("*")):
        name = placed(path.relative_to(folder).as_posix())
        if path.is_symlink():
            entries[name] = (_info(name, 0o777, link=str(path.readlink())), b"")
        elif path.is_dir():
            entries.setdefault(name, (_info(name, stat.S_IFDIR | 0o755), b""))
        elif path.is_file():
            data = path.read_bytes()
            # Git keeps only the executable bit, so that is all that counts.
            mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            entries[name] = (_info(name, mode, len(data)), data)
        else:
            raise ImageTreeError(f"{path} is neither a file, a folder nor a link")


def write_layer(debs: Iterable[Path], folder: Path | None, output: Path) -> None:
    """Write the layer's tar.

    Args:
        debs: packages, in the order they are laid.
        folder: laid over them.
        output: the tar to write.

    Raises:
        CommandError: a file is no package.
        ImageTreeError: the files cannot be put together.
    """
    entries: dict[str, Entry] = {}
    for name in FOLDERS:
        mode = 0o1777 if name == "tmp" else 0o755
        entries[name] = (_info(name, stat.S_IFDIR | mode), b"")
    for name in MERGED:
        entries[name] = (_info(name, 0o777, link=f"usr/{name}"), b"")
    for deb in debs:
        argv = ("dpkg-deb", "--fsys-tarfile", str(deb))
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(ENVIRONMENT)) as reader:
            assert reader.stdout is not None  # noqa: S101 - asked for in the line above
            # Read whole: the end of a tar stream is not the end of the pipe.
            data = reader.stdout.read()
        if reader.returncode:
            raise CommandError(f"{deb.name} is not a package", details=f"dpkg-deb: exit status {reader.returncode}")
        add_package(entries, io.BytesIO(data))
    for name, data in (("etc/passwd", PASSWD), ("etc/group", GROUP)):
        entries[name] = (_info(name, 0o644, len(data)), data)
    if folder is not None:
        add_folder(entries, folder)
    for name in list(entries):
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                entries.setdefault(str(parent), (_info(str(parent), stat.S_IFDIR | 0o755), b""))
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_info("./", stat.S_IFDIR | 0o755))
        for _, (info, data) in sorted(entries.items()):
            info.mtime, info.uname, info.gname = 0, "", ""
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
