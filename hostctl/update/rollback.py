"""Goes back to the release in the other slot, when somebody asks for it."""

from __future__ import annotations

from hostctl.boot.slots import find_slots, read_table
from hostctl.errors import HostctlError
from hostctl.update import esp, record, slot
from hostctl.update.host import UpdateHost
from hostctl.update.lock import locked
from hostctl.update.steps import Report, Steps, silent


class RollbackError(HostctlError):
    """There is no release to go back to."""

    id = "rollback"


def rollback(host: UpdateHost, cause: str = "asked for", report: Report = silent) -> str:
    """Make the release in the other slot the next boot's choice and return its version. The caller reboots.

    Raises:
        UpdateBusyError: an update is at work.
        RollbackError: the other slot holds nothing that could start.
        LockError, StateError: the ESP cannot be used.
    """
    with locked(host, "rollback"):
        other = find_slots(read_table(host.disk), host.root_hash).other
        entries = esp.read_entries(host)
        target = next((entry for entry in entries if entry.release == other.release and not entry.bad), None)
        running = [entry for entry in entries if entry.version == host.version]
        if target is None or not running:
            raise RollbackError(
                "there is no release to go back to",
                details=f"other slot: {other.release or 'empty'}",
                hint="`hostctl history` tells what became of it",
            )
        wrong = slot.verifies(other, other.root_hash)
        if wrong:
            raise RollbackError(f"the root of {other.release} does not verify", details=wrong)
        record.rolled_back(host, target.version, cause, Steps(host, report))
        for entry in running:
            esp.give_up(host, entry)
        return target.version
