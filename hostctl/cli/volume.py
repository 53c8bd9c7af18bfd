"""``hostctl volume``: volumes, through the agent. Backups are made and read as streams, whole or not at all."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from hostctl.agent import bus
from hostctl.agent.copying import CopyError
from hostctl.cli import actions, filters, formats, many
from hostctl.cli.output import output
from hostctl.cli.stats import size
from hostctl.cli.tables import table
from hostctl.errors import UsageError
from hostctl.printable import printable

EXAMPLES = """examples:
  hostctl volume ls --size
  hostctl volume ls -q --filter dangling=true
  hostctl volume inspect content
  hostctl volume inspect -f '{{.Mountpoint}}' content
  hostctl volume create scratch
  hostctl volume rm scratch
  hostctl volume rm -f scratch old                     one that is not there is no failure
  hostctl volume prune
  hostctl volume backup content -o content.tar.zst
  hostctl volume backup --live content | ssh backup 'cat >content.tar.zst'
  hostctl volume restore content -i content.tar.zst --sha256 9f86…

A backup is a tar archive with the workload's own numbers as owners, one zstd frame with a checksum; its SHA-256 is
printed. Restoring unpacks beside the volume and exchanges both in one step. Either refuses while a workload that mounts
the volume runs: with --live a backup takes files as they are, and a restore stops those workloads for the exchange.
rm and prune never remove a volume that is declared or mounted, and none while the declaration in force may still be
taken back: while it is being changed, which ends with 75, and in a boot whose health is not known yet.
"""
CHUNK = 1 << 20
MISSING = "unknown-volume"
FILTERS: Mapping[str, Callable[[dict[str, object], str], bool]] = {
    "name": lambda row, wanted: filters.matches(str(row["name"]), wanted),
    "dangling": lambda row, wanted: filters.truth(wanted) != bool(row["declared"] or row["workloads"]),
    "driver": lambda row, wanted: wanted == "local",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    words = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add(words, "ls", "list volumes", EXAMPLES)
    listing.add_argument("-q", "--quiet", action="store_true", help="names only")
    listing.add_argument("--size", action="store_true", help="with what they take on the disk, which takes time")
    listing.add_argument("--format", metavar="TEMPLATE", help="print each by a template, as in `hostctl ps`")
    filters.configure(listing, FILTERS)
    looking = actions.add(words, "inspect", "everything known of volumes", EXAMPLES)
    looking.add_argument("-f", "--format", metavar="TEMPLATE", help="print a part of it")
    making = actions.add(words, "create", "make empty volumes", EXAMPLES)
    removing = actions.add(words, "rm", "remove volumes that nobody declares or mounts", EXAMPLES)
    for action in (looking, making, removing):
        action.add_argument("volume", nargs="+", help="names")
    pruning = actions.add(words, "prune", "remove all volumes that nobody declares or mounts", EXAMPLES)
    removing.add_argument("-f", "--force", action="store_true", help="end with 0 although one is not there")
    pruning.add_argument("-f", "--force", action="store_true", help="without asking")
    pruning.add_argument("-a", "--all", action="store_true", help="those with a name too, which all have")
    saving = actions.add(words, "backup", "write a volume to a file", EXAMPLES)
    saving.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here (default: standard output)")
    restoring = actions.add(words, "restore", "make a volume what a backup says", EXAMPLES)
    restoring.add_argument("-i", "--input", type=Path, metavar="FILE", help="the backup (default: standard input)")
    restoring.add_argument("--sha256", metavar="HEX", help="refuse a file with another SHA-256; needs --input")
    for action in (saving, restoring):
        action.add_argument("--live", action="store_true", help="also while a workload that mounts it runs")
        action.add_argument("volume", help="its name")
    for action in (listing, looking, making, removing, pruning, saving, restoring):
        action.add_argument("--json", action="store_true", help="print a JSON document")


def text(rows: Sequence[dict[str, object]]) -> str:
    """Return what a terminal shows of volumes."""
    cells = []
    for row in rows:
        users = row["workloads"]
        shown = ", ".join(str(name) for name in users) if isinstance(users, list) else ""
        count = row["bytes"]
        taken = size(count) if isinstance(count, int) and count >= 0 else "-"
        cells.append((str(row["name"]), "yes" if row["declared"] else "no", shown or "-", str(row["owner"]), taken))
    return table(("NAME", "DECLARED", "WORKLOADS", "OWNER", "SIZE"), cells)


class Hashing:
    """Passes bytes on and adds them up."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink, self._sum = sink, hashlib.sha256()
        self.bytes = 0

    def copy(self, source: BinaryIO) -> None:
        """Take all of ``source``."""
        while data := source.read(CHUNK):
            self._sum.update(data)
            self.bytes += len(data)
            self._sink.write(data)

    @property
    def hex(self) -> str:
        """The SHA-256 of what was passed on."""
        return self._sum.hexdigest()


def backup(name: str, target: Path | None, options: str) -> dict[str, object]:
    """Write a backup; a file appears when it is whole."""
    from hostctl.cli.cp import piped  # noqa: PLC0415 - only for streams

    def save(descriptor: int) -> dict[str, object]:
        found: dict[str, object] = json.loads(bus.call("BackupVolume", name, options, descriptors=(descriptor,)))
        return found

    def written(sink: BinaryIO) -> dict[str, object]:
        hashing = Hashing(sink)

        def read(descriptor: int) -> None:
            with os.fdopen(os.dup(descriptor), "rb") as source:
                hashing.copy(source)

        saved, _ = piped(save, read)
        sink.flush()
        return {"volume": name, "sha256": hashing.hex, "bytes": hashing.bytes, **saved}

    if target is None:
        if os.isatty(1):
            raise UsageError("an archive is nothing for a terminal", hint="-o FILE, or a pipe")
        return written(sys.stdout.buffer)
    with output(target) as file:
        return written(file)


def restore(name: str, source: Path | None, sha256: str | None, options: str) -> dict[str, object]:
    """Restore from a file or standard input; a file with another sum than ``sha256`` is refused before it is read."""
    if source is None:
        if sha256 is not None:
            raise UsageError("--sha256 needs --input: a stream cannot be checked before it is read")
        found: dict[str, object] = json.loads(bus.call("RestoreVolume", name, options, descriptors=(0,)))
        return {"volume": name, **found}
    with source.open("rb") as file:
        if sha256 is not None:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != sha256.lower():
                raise CopyError(f"{source}: its SHA-256 is {actual}", hint="the file is not the backup that was meant")
            file.seek(0)
        found = json.loads(bus.call("RestoreVolume", name, options, descriptors=(file.fileno(),)))
    return {"volume": name, **found}


def _asked(names: list[str]) -> bool:
    if not os.isatty(0):
        raise UsageError("nothing is removed without being asked for", hint="--force")
    return input(f"remove {', '.join(names)} with all that is in them? [y/N] ").strip().lower() in ("y", "yes")


def _prune(arguments: argparse.Namespace) -> int:
    if not arguments.force:
        rows = json.loads(bus.call("ListVolumes", ""))
        doomed = [row["name"] for row in rows if not row["declared"] and not row["workloads"]]
        if not doomed or not _asked(doomed):
            return 0
    removed = json.loads(bus.call("PruneVolumes"))
    if arguments.json:
        print(json.dumps(removed))
    else:
        print("".join(f"{row['name']}\n" for row in removed), end="")
        print(f"{size(sum(row['bytes'] for row in removed))} freed")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    listed = json.loads(bus.call("ListVolumes", "sizes" if arguments.size else ""))
    found = filters.chosen(listed, arguments.filter, FILTERS)
    if arguments.json:
        print(json.dumps(found, indent=1))
    elif arguments.format is not None:
        print(formats.render(arguments.format, [docker(row) for row in found]))
    elif arguments.quiet:
        print("".join(f"{row['name']}\n" for row in found), end="")
    else:
        print(text(found))
    return 0


def docker(row: dict[str, object]) -> dict[str, object]:
    """Return a volume with Docker's keys, and ours beside them."""
    return {"Name": row["name"], "Mountpoint": row["path"], "Driver": "local", "Scope": "local", **row}


def _inspect(arguments: argparse.Namespace) -> int:
    found = [docker(json.loads(bus.call("InspectVolume", name))) for name in arguments.volume]
    if arguments.format is not None:
        print(formats.render(arguments.format, found))
    else:
        print(json.dumps(found, indent=1))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked."""
    if arguments.action in ("create", "rm"):
        member = "CreateVolume" if arguments.action == "create" else "RemoveVolume"
        missing = (MISSING,) if arguments.action == "rm" and arguments.force else ()
        deed = functools.partial(_silently, member)
        return many.each(arguments.volume, deed, as_json=arguments.json, missing=missing)
    if arguments.action in ("backup", "restore"):
        return _stream(arguments)
    return {"ls": _list, "inspect": _inspect, "prune": _prune}[arguments.action](arguments)


def _silently(member: str, name: str) -> None:
    bus.call(member, name)


def _stream(arguments: argparse.Namespace) -> int:
    options = "live" if arguments.live else ""
    try:
        if arguments.action == "backup":
            done = backup(arguments.volume, arguments.output, options)
        else:
            done = restore(arguments.volume, arguments.input, arguments.sha256, options)
    except OSError as error:
        raise CopyError(f"{error.filename or arguments.volume}: {error.strerror}") from error
    skipped = done.get("skipped")
    if isinstance(skipped, list) and skipped:
        print(f"left out: {printable(', '.join(str(name) for name in skipped[:10]))}", file=sys.stderr)
    out = sys.stderr if arguments.action == "backup" and arguments.output is None else sys.stdout
    if arguments.json:
        print(json.dumps(done), file=out)
    elif arguments.action == "backup":
        print(f"{done['sha256']}  {arguments.output or '-'}", file=out)
    else:
        print(f"{arguments.volume}: {done['files']} entries restored", file=out)
    return 0
