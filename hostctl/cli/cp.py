"""``hostctl cp``: files into and out of a running workload.

The workload's side is read and written inside its own user namespace, this side is written below the named folder
only: a link in an archive is never followed, and no right of a file (set-user-id, capabilities) comes to the host.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from hostctl.agent import client
from hostctl.agent.copying import CopyError
from hostctl.agent.outcome import Copied
from hostctl.cli.background import begun
from hostctl.errors import UsageError
from hostctl.printable import printable
from hostctl.workload.beneath import TransferError, means_contents
from hostctl.workload.packing import Packer
from hostctl.workload.unpacking import Destination, Unpacker, place

EXAMPLES = """examples:
  hostctl cp site:/etc/nginx/nginx.conf .
  hostctl cp index.html site:/srv/
  hostctl cp site:/var/log/. logs      what is in the folder, without the folder
  hostctl cp public/. site:/srv/new    the same inwards; the target is made if it is not there
  hostctl cp -L site:/etc/localtime .  what the link leads to, inside the workload
  hostctl cp site:/srv - | tar t       a tar archive to standard output, or from standard input

Names are as with cp: into a folder that exists, else under the last name of the target. A source that ends in / or /.
is a folder, or a link to one, which is followed. An archive from standard input goes into a folder that exists. What is
copied in belongs to the workload's root user, what is copied out to you; -a keeps owners, in the workload's numbers.
The workload must run. Devices and sockets are left out.
"""

Left = TypeVar("Left")
Right = TypeVar("Right")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("-a", "--archive", action="store_true", help="keep owners")
    parser.add_argument("-L", "--follow-link", action="store_true", help="copy what SOURCE leads to if it is a link")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what was left out")
    parser.add_argument("source", metavar="SOURCE", help="WORKLOAD:PATH, a path here, or -")
    parser.add_argument("target", metavar="TARGET", help="a path here, WORKLOAD:PATH, or -")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One side: a workload and a path in it, or a path here; ``-`` is a stream."""

    workload: str
    path: str


def side(text: str) -> Place:
    """Return what a word of the command line names. A path here that has a colon begins with ``/`` or ``.``."""
    name, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")) or "/" in name:
        return Place(workload="", path=text)
    return Place(workload=name, path=path or "/")


def _owner(*, keep: bool) -> tuple[int, int] | None:
    return None if keep and os.geteuid() == 0 else (os.geteuid(), os.getegid())


def piped(left: Callable[[int], Left], right: Callable[[int], Right]) -> tuple[Left, Right]:
    """Let one side write to a pipe while the other reads from it, and return what both return.

    The writer's failure counts more, unless it only is that the reader has gone. A Ctrl-C is raised at once; as nobody
    reads any more then, the writer ends soon.
    """
    reader, writer = os.pipe()

    def write() -> Left:
        try:
            return left(writer)
        finally:
            os.close(writer)

    writing = begun(write)
    try:
        found = right(reader)
    except Exception:
        os.close(reader)
        error = writing.exception()
        if error is not None and "roken pipe" not in str(error):
            raise error from None
        raise
    except BaseException:
        os.close(reader)
        raise
    os.close(reader)
    return writing.result(), found


def copy_out(workload: str, path: str, target: str, *, archive: bool, follow: bool = False) -> Copied:
    """Copy out of a workload to a path here."""
    folder, rename, made = _local_place(target, contents=means_contents(path))
    unpacker = Unpacker(folder, owner=_owner(keep=archive), rename=rename, harmless=True, itself=made)

    options = "follow" if follow else ""

    def read(descriptor: int) -> None:
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            unpacker.unpack(stream)

    try:
        return piped(lambda descriptor: client.copy("CopyOut", workload, path, options, descriptor), read)[0]
    finally:
        os.close(folder)


def _local_place(target: str, *, contents: bool) -> Destination:
    """Return where entries go here."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        absolute = str(Path.cwd() / target)
        return place(here, f"{absolute}/" if target.endswith(("/", "/.")) else absolute, contents=contents)
    finally:
        os.close(here)


def copy_in(source: str, workload: str, path: str, *, archive: bool, follow: bool = False) -> Copied:
    """Copy a path here into a workload."""
    contents = means_contents(source)
    if (contents or source.endswith("/")) and not Path(source).is_dir():
        raise UsageError(f"{source}: no such folder")

    def write(descriptor: int) -> None:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            _pack(source, stream, contents=contents, follow=follow)

    options = " ".join(word for word, wanted in (("keep-owner", archive), ("contents", contents)) if wanted)
    return piped(write, lambda descriptor: client.copy("CopyIn", workload, path, options, descriptor))[1]


def _pack(source: str, stream: BinaryIO, *, contents: bool, follow: bool) -> None:
    absolute = Path(os.path.abspath(source))  # noqa: PTH100 - resolve() would follow the last link
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        packer = Packer(stream)
        path = f"{absolute}/" if source.endswith(("/", "/.")) else str(absolute)
        packer.add(root, path, "." if contents else absolute.name, follow=follow)
        packer.close()
    finally:
        os.close(root)


def run(arguments: argparse.Namespace) -> int:
    """Copy."""
    source, target = side(arguments.source), side(arguments.target)
    archive, follow = arguments.archive, arguments.follow_link
    if bool(source.workload) == bool(target.workload):
        raise UsageError("one of source and target is WORKLOAD:PATH, the other is not")
    try:
        if source.workload:
            if target.path == "-":
                sys.stdout.flush()
                copied = client.copy("CopyOut", source.workload, source.path, "follow" if follow else "", 1)
            else:
                copied = copy_out(source.workload, source.path, target.path, archive=archive, follow=follow)
        elif source.path == "-":
            options = "keep-owner" if archive else ""
            # The slash: an archive may hold anything, so it goes into a folder that is there.
            copied = client.copy("CopyIn", target.workload, f"{target.path}/", options, 0)
        else:
            copied = copy_in(source.path, target.workload, target.path, archive=archive, follow=follow)
    except TransferError as error:
        raise CopyError(str(error)) from error
    except OSError as error:
        raise CopyError(f"{error.filename or arguments.source}: {error.strerror}") from error
    if copied.skipped and not arguments.quiet:
        print(f"left out: {printable(', '.join(copied.skipped[:10]))}", file=sys.stderr)
    return 0
