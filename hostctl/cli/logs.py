"""``hostctl logs``: what workloads print, from the journal.

Replaces itself by journalctl where that gives lines as they are, or as JSON. Where it puts something before lines it
keeps back whole ones for one character that a terminal would obey; so it is asked for all of them, and they are made
harmless here.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hostctl.agent.generation import Record
from hostctl.agent.machine import workload_unit
from hostctl.agent.overview import require
from hostctl.errors import EXIT_FAILED, HostctlError, UsageError
from hostctl.layout import HostLayout
from hostctl.run import CommandNotFoundError
from hostctl.workload import instance

EXAMPLES = """examples:
  hostctl logs site
  hostctl logs site -n 100 --follow
  hostctl logs web app --since 10m -t     of several, in the order of time
  hostctl logs site --since "2026-11-26 08:00" --until "09:00" --priority err
  hostctl logs site --since "10 min ago" --json

Times are those of journalctl, or as Docker has them: 10m, 1h30m, 2026-11-26T08:00:00Z. A program gives a line its
priority by <3> in front of it (sd-daemon(3)); --all-messages adds what systemd and the runtime say of the workload.
Lines are as they were printed; with -t, of several workloads and with --all-messages they lose their colours, and what
else a terminal would obey is written out, as \\x0d.
"""
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
JOURNALS = ("var/log/journal", "run/log/journal")
CHUNK = 64 << 10  # bytes
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_AGO = re.compile(r"(?:[0-9]+[smhd])+")
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9:]{5,8})(?:\.[0-9]+)?(Z?)")


class JournalDeniedError(HostctlError):
    """The caller may not read the journal, which would just be empty for them."""

    id = "journal-denied"


def _may_read(path: Path) -> bool:
    return os.access(path, os.R_OK)


def require_journal(root: Path = Path("/"), may_read: Callable[[Path], bool] = _may_read) -> None:
    """Refuse to show nothing to somebody who may not read the system's journal: journalctl(1) does that quietly.

    Raises:
        JournalDeniedError: that is so.
    """
    files = [file for folder in JOURNALS for file in (root / folder).glob("*/system.journal")]
    if files and not any(may_read(file) for file in files):
        raise JournalDeniedError("only root may read what workloads print", hint="begin the command with sudo")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("workload", nargs="+", help="names")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing what comes")
    parser.add_argument("-n", "--lines", "--tail", metavar="N", help="only the last N lines, or all")
    parser.add_argument("--since", metavar="TIME", help="only from this time on")
    parser.add_argument("--until", metavar="TIME", help="only up to this time")
    parser.add_argument("-t", "--timestamps", action="store_true", help="the time before each line")
    parser.add_argument("-p", "--priority", choices=PRIORITIES, help="only lines of this priority and more urgent ones")
    parser.add_argument("--all-messages", action="store_true", help="also what systemd says of the workload")
    parser.add_argument("--json", action="store_true", help="one JSON document a line, with all the journal's fields")


def moment(text: str) -> str:
    """Return a time as journalctl takes it, from what it or Docker takes."""
    if _AGO.fullmatch(text):
        return f"-{text}"
    found = _ISO.fullmatch(text)
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else text


def units(record: Record, name: str) -> list[str]:
    """Return the units whose output is that of a workload, or of one of its replicas."""
    name = record.called(name)
    # What an instance said that others have taken the place of is the workload's as well.
    keys = instance.keys(name) if name in record.images else ()
    return [workload_unit(key) for key in dict.fromkeys((*keys, *record.named(name)))]


def command(
    units: Sequence[str],
    *,
    several: bool = False,
    follow: bool = False,
    lines: str | None = None,
    since: str | None = None,
    until: str | None = None,
    timestamps: bool = False,
    priority: str | None = None,
    all_messages: bool = False,
    as_json: bool = False,
    invocation: str = "",
) -> list[str]:
    """Return the arguments of journalctl(1).

    Args:
        units: whose output.
        several: each line says whose it is.
        follow: keep printing.
        lines: only the last, or ``all``.
        since: the first moment.
        until: the last moment.
        timestamps: with the time of each.
        priority: only these and more urgent ones.
        all_messages: also what is said of the units.
        as_json: as documents.
        invocation: systemd's number of the one run whose output is wanted, instead of that of all.

    Raises:
        UsageError: ``lines`` is no number.
    """
    if lines is not None and lines != "all" and not (lines.isascii() and lines.isdigit()):
        raise UsageError(f"--lines {lines}: a number, or all")
    words = ["journalctl", "--no-pager", "--quiet"]
    if as_json:
        words += ["--output=json", "--all"]  # long fields as well
    elif timestamps or several or all_messages:
        words += ["--output=short-iso-precise" if timestamps else "--output=short-iso", "--no-hostname", "--all"]
    else:
        words.append("--output=cat")
    words += ["--follow"] if follow else []
    if lines is not None or follow:
        words.append(f"--lines={lines or 'all'}")
    words += [f"--since={moment(since)}"] if since is not None else []
    words += [f"--until={moment(until)}"] if until is not None else []
    words += [f"--priority={priority}"] if priority is not None else []
    if all_messages:
        return words + [f"--unit={unit}" for unit in units]
    words += [f"_SYSTEMD_UNIT={unit}" for unit in units]
    return words + ([f"_SYSTEMD_INVOCATION_ID={invocation}"] if invocation else [])


def become(words: Sequence[str]) -> int:
    """Replace this process by journalctl, which then owns the terminal.

    Raises:
        CommandNotFoundError: it is not installed.
    """
    try:
        os.execvp(words[0], list(words))  # noqa: S606 - an argument list, no shell
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error


def harmless(lines: bytes) -> str:
    """Return lines without colours, and with what else a terminal would obey, or is no text, written out."""
    text = _COLOUR.sub(b"", lines).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def whole_lines(source: int, sink: int) -> Iterator[bytes]:
    """Yield what comes from a file, in whole lines, until it ends or nobody reads from ``sink`` any more."""
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    waiting.register(sink, 0)  # for errors alone
    rest = b""
    while sink not in dict(waiting.poll()) and (data := os.read(source, CHUNK)):
        lines, end, rest = (rest + data).rpartition(b"\n")
        yield lines + end
    yield rest


def show(words: Sequence[str]) -> int:
    """Print what journalctl prints, made :func:`harmless`, and return an exit status.

    Raises:
        CommandNotFoundError: it is not installed.
    """
    try:  # it never ends by itself when it follows, so not through run()
        reader = subprocess.Popen(list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except FileNotFoundError as error:
        raise CommandNotFoundError("journalctl is not installed") from error
    with reader:
        assert reader.stdout is not None  # noqa: S101 - asked for above
        for lines in whole_lines(reader.stdout.fileno(), sys.stdout.fileno()):
            sys.stdout.buffer.write(harmless(lines).encode())
            sys.stdout.buffer.flush()
    return EXIT_FAILED if reader.returncode else 0


def run(arguments: argparse.Namespace) -> int:
    """Become journalctl, or pass on what it prints."""
    require_journal()
    records = {name: require(name, HostLayout()).record for name in arguments.workload}
    words = command(
        [unit for name, record in records.items() for unit in units(record, name)],
        several=sum(len(record.named(name)) for name, record in records.items()) > 1,
        follow=arguments.follow,
        lines=arguments.lines,
        since=arguments.since,
        until=arguments.until,
        timestamps=arguments.timestamps,
        priority=arguments.priority,
        all_messages=arguments.all_messages,
        as_json=arguments.json,
    )
    return become(words) if {"--output=cat", "--output=json"} & set(words) else show(words)
