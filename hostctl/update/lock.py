"""One updater at a time, and who it is.

The lock is taken on the folder of the boot entries itself: it is always there, so a full disk cannot keep an update
from its lock, and while it is held the EFI system partition stays mounted. The kernel gives it up with the process.
Who holds it is written beside it, for people; nothing depends on that.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hostctl.errors import EXIT_BUSY, HostctlError
from hostctl.update.host import UpdateHost

log = logging.getLogger(__name__)

HOLDER = "updater.json"
_MAX_BYTES = 4096


class UpdateBusyError(HostctlError):
    """Another update or rollback is at work."""

    id = "update-busy"
    exit_code = EXIT_BUSY


class LockError(HostctlError):
    """The folder of the boot entries cannot be locked."""

    id = "update-lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds the lock."""

    pid: int
    verb: str
    since: str
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        """Return it as a sentence's part."""
        return f"`hostctl {self.verb}` (pid {self.pid}) since {self.since}"


def holder(runtime: Path) -> Holder | None:
    """Return who said last that it holds the lock and is still alive; none if that is not known."""
    try:
        with (runtime / HOLDER).open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        found = Holder(pid=int(document["pid"]), verb=str(document["verb"]), since=str(document["since"]))
        os.kill(found.pid, 0)
    except PermissionError:
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    return found


def _announce(runtime: Path, verb: str) -> None:
    record = Holder(pid=os.getpid(), verb=verb, since=datetime.now(UTC).isoformat(timespec="seconds"))
    temporary = runtime / f".{HOLDER}.{os.getpid()}"
    try:
        runtime.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(record)))
        temporary.replace(runtime / HOLDER)
    except OSError as error:
        log.warning("others will not be told who updates: %s", error)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(host: UpdateHost, verb: str = "update") -> Iterator[None]:
    """Hold the one lock of everything that writes slots or boot entries.

    Args:
        host: the machine.
        verb: what others are told, ``hostctl VERB``.

    Raises:
        UpdateBusyError: somebody else holds it.
        LockError: the EFI system partition is not there.
    """
    try:
        descriptor = os.open(host.entries, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LockError(
            "the EFI system partition cannot be read",
            details=str(error),
            hint="updates and rollbacks are for root, on a host whose ESP is mounted",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = holder(host.runtime)
            raise UpdateBusyError(
                f"{who or 'another update or rollback'} is at work", hint="try again when it is done"
            ) from error
        _announce(host.runtime, verb)
        try:
            yield
        finally:
            with suppress(OSError):
                (host.runtime / HOLDER).unlink()
    finally:
        os.close(descriptor)
