"""What the boots before this one left behind, and which of them it belongs to. Reads; only :meth:`forget` removes.

A boot that fails leaves, in the order in which they are believed: the initrd's reason (a file in the state), the
kernel's dump (pstore, kept by the firmware or by memory that a reset does not clear), the journal of that boot. All
are bounded, and none is needed: without them the history says only that a release did not come up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hostctl.boot.last_words import Booted, Words, booted_release, dump_words, parse_journal, telling_lines
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.run import run
from hostctl.update.history import GIVEN_UP

MAX_RECORDS = 64
MAX_RECORD = 64 << 10  # bytes
MAX_REASON = 1024
MAX_REPORT = 16 << 10
BOOTS_BACK = 5
KERNEL_LINES = 60  # of a boot, within which the kernel prints its command line
JOURNAL_LINES = 400
UNIT_LINES = 20
JOURNAL_SECONDS = 60.0
NOT_IN_TIME = "it was not healthy in time"
CAME_UP_NOT = "it did not come up three times"  # rootfs/initrd/init
_DEADLINE = "hostctl: not healthy"  # units/host/hostctl-deadline.service
_FIELDS = "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER"
_MENDED = {"esp": "the EFI system partition", "state": "the state partition"}


def journal(*words: str) -> bytes:
    """Return what journalctl prints; nothing when it cannot."""
    try:
        done = run(["journalctl", "--no-pager", "--quiet", *words], timeout=JOURNAL_SECONDS, check=False)
    except HostctlError:
        return b""
    return done.stdout


def unit_lines(units: Sequence[str]) -> tuple[str, ...]:
    """Return the last lines of this boot of each of ``units``, in their order; of no unit, what went wrong at all.

    They share :data:`UNIT_LINES`, so that one that says much does not hide the others.
    """
    words = ("--boot", "--output=json", _FIELDS)
    if not units:
        return telling_lines(parse_journal(journal(*words, f"--lines={JOURNAL_LINES}")))
    told = units[:UNIT_LINES]
    share = UNIT_LINES // len(told)
    said = (parse_journal(journal(*words, f"--lines={share}", f"--unit={unit}")) for unit in told)
    return tuple(each.line for lines in said for each in lines[-share:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Mended:
    """A file system that the initrd had to repair, and what the program said."""

    what: str
    lines: tuple[str, ...]
    report: Path


@dataclass(kw_only=True, slots=True)
class Aftermath:
    """What there is; the journal is only read when it is asked for."""

    layout: HostLayout
    dump: Words | None = None
    reason: tuple[str, str] | None = None
    """Root hash, and why the initrd gave the release up."""
    mended: tuple[Mended, ...] = ()
    _records: tuple[Path, ...] = field(default=())

    def explain(self, root_hash: str) -> Words:
        """Return why the release of ``root_hash`` did not come up."""
        reason = self.reason[1] if self.reason is not None and self.reason[0] == root_hash else ""
        if reason not in ("", CAME_UP_NOT):
            return Words(cause=reason)
        if self.dump is not None:
            return self.dump
        lines = self._journal_of(root_hash)
        late = any(_DEADLINE in line for line in lines)
        return Words(cause=reason or (NOT_IN_TIME if late else GIVEN_UP), lines=lines)

    def former_boot(self) -> Booted | None:
        """Return which release ran before this boot, as far as its journal tells."""
        return _release_of(-1)

    def forget(self) -> None:
        """Remove what has been noted."""
        for path in (*self._records, self.layout.state / "gave-up", *(each.report for each in self.mended)):
            with suppress(OSError):  # firmware may refuse to delete a variable; then it is told again
                path.unlink(missing_ok=True)

    def _journal_of(self, root_hash: str) -> tuple[str, ...]:
        for back in range(-1, -BOOTS_BACK - 1, -1):
            booted = _release_of(back)
            if booted is not None and booted.root_hash == root_hash:
                words = [f"--boot={back}", "--output=json", _FIELDS, f"--lines={JOURNAL_LINES}"]
                return telling_lines(parse_journal(journal(*words)))
        return ()


def _release_of(back: int) -> Booted | None:
    text = journal(f"--boot={back}", "--dmesg", "--output=cat", f"--lines=+{KERNEL_LINES}").decode("utf-8", "replace")
    return booted_release(text.splitlines())


def collect(layout: HostLayout) -> Aftermath:
    """Return what the boots before this one left on ``layout``'s machine."""
    records = {path: _head(path, MAX_RECORD) for path in _listing(layout.root / "sys/fs/pstore")[:MAX_RECORDS]}
    reason = _head(layout.state / "gave-up", MAX_REASON).decode("utf-8", "replace").strip()
    root_hash, _, sentence = reason.partition(" ")
    return Aftermath(
        layout=layout,
        dump=dump_words({path.name: data for path, data in records.items()}),
        reason=(root_hash, sentence) if sentence else None,
        mended=tuple(_mended(layout)),
        _records=tuple(path for path in records if path.name.startswith("dmesg-")),
    )


def _mended(layout: HostLayout) -> list[Mended]:
    found = []
    for name, what in _MENDED.items():
        report = layout.runtime / f"mended-{name}"
        if report.exists():
            lines = _head(report, MAX_REPORT).decode("utf-8", "replace").splitlines()
            found.append(Mended(what=what, lines=tuple(line for line in lines if line.strip()), report=report))
    return found


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # no pstore, or its backend does not answer
        return []


def _head(path: Path, size: int) -> bytes:
    """Return the first ``size`` bytes of a file; none if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
