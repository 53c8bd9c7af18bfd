"""What can be done to a running unit beyond starting and stopping it: signals, freezing, an impatient stop, its end.

A thin edge to systemctl and to the kernel's process descriptors, with no decisions and no state.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hostctl.agent.machine import START_TIMEOUT, SystemdUnavailableError, exit_status
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.run import CommandError, CommandTimeoutError, run

SHORT = 30.0  # seconds for a call that waits for no job
SETTLE = 10.0  # seconds that systemd may need to notice an end that the kernel has told of
LOOK = 0.1  # seconds between two looks at a start that is waited for
LAST_SIGNAL = 64


class SignalError(HostctlError):
    """There is no such signal."""

    id = "unknown-signal"
    exit_code = EXIT_USAGE


class StillRunningError(HostctlError):
    """What was waited for did not end in time."""

    id = "still-running"


def signal_name(text: str) -> str:
    """Return a signal as systemctl takes it: its name with SIG, or SIGRTMIN+n.

    Args:
        text: a name, with SIG or without, or a number.

    Raises:
        SignalError: it is none.
    """
    wanted = text.upper()
    if re.fullmatch(r"[0-9]{1,2}", wanted) and 1 <= int(wanted) <= LAST_SIGNAL:
        number = int(wanted)
        realtime = number - signal.SIGRTMIN
        return f"SIGRTMIN+{realtime}" if realtime >= 0 else signal.Signals(number).name
    name = wanted if wanted.startswith("SIG") else f"SIG{wanted}"
    offset = re.fullmatch(r"SIGRTMIN\+([0-9]{1,2})", name)
    if (offset and int(offset[1]) <= signal.SIGRTMAX - signal.SIGRTMIN) or name in signal.Signals.__members__:
        return name
    raise SignalError(f"there is no signal {text!r}", hint="a name as TERM or SIGHUP, or a number from 1 to 64")


def show(units: Sequence[str], properties: Sequence[str]) -> list[Mapping[str, str]]:
    """Return properties of units, in their order; times are seconds since 1970, with an @ before them.

    Raises:
        SystemdUnavailableError: systemd does not answer.
    """
    words = ["systemctl", "show", "--timestamp=unix", f"--property={','.join(properties)}", "--", *units]
    try:
        done = run(words, timeout=SHORT)
    except CommandError as error:
        raise SystemdUnavailableError("systemd does not answer", details=error.details) from error
    blocks = done.text.strip("\n").split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def kill(unit: str, name: str) -> None:
    """Send a signal to the first process of a unit."""
    run(["systemctl", "kill", f"--signal={name}", "--kill-whom=main", "--", unit], timeout=SHORT)


def freeze(unit: str) -> None:
    """Let none of the unit's processes run; returns when the kernel has stopped the last."""
    run(["systemctl", "freeze", "--", unit], timeout=START_TIMEOUT)


def thaw(unit: str) -> None:
    """Let a frozen unit's processes run again."""
    run(["systemctl", "thaw", "--", unit], timeout=START_TIMEOUT)


def stop_within(verb: str, unit: str, seconds: float) -> None:
    """Stop or restart a unit; its first process is killed if it runs on after ``seconds``, and with it all others.

    What the unit does after that goes on, and a next run is let alone: it has begun with the first process gone. The
    unit's own, declared stop timeout stays the upper bound.

    Args:
        verb: ``stop`` or ``restart``.
        unit: its name.
        seconds: from the request on; 0 kills at once.
    """
    began = time.monotonic()
    with _first_process(unit) as process:
        try:
            run(["systemctl", verb, "--", unit], timeout=max(0.1, seconds))
        except CommandTimeoutError:  # only the waiting systemctl was ended: the job goes on
            if process is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            left = START_TIMEOUT - (time.monotonic() - began)
            # A job of the same kind is merged with the one under way, so this waits for that.
            run(["systemctl", verb if verb == "stop" else "start", "--", unit], timeout=max(1.0, left))


@contextmanager
def _first_process(unit: str) -> Iterator[int | None]:
    """Give a descriptor of a unit's first process, which no later process can be taken for; none if it has none."""
    pid = int(show([unit], ["MainPID"])[0].get("MainPID") or 0)
    try:
        descriptor = os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _begun(unit: str, properties: Sequence[str], timeout: float | None) -> Mapping[str, str]:
    """Return properties of a unit; if systemd has yet to start it, because it was just asked to, once that has begun.

    Raises:
        StillRunningError: it is not started within ``timeout`` seconds.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        found = show([unit], [*properties, "Job"])[0]
        if int(found.get("MainPID") or 0) or not int(found.get("Job") or 0):
            return found
        if end is not None and time.monotonic() > end:
            raise StillRunningError(f"{unit} was not started within {timeout:g} s")
        time.sleep(LOOK)


def await_end(unit: str, timeout: float | None = None, *, wait: Callable[[int], object] | None = None) -> int:
    """Return the exit status of a unit's first process, once that has ended; of the last one if none runs.

    The kernel tells of the end (pidfd_open(2)), so nothing is asked meanwhile, and nobody needs to be root for it.

    Args:
        unit: a workload's service.
        timeout: seconds to wait at most; none waits for ever.
        wait: returns when the descriptor that it is given can be read, for who has something to do meanwhile. It has
            all the time that it takes.

    Raises:
        StillRunningError: it runs on.
    """
    wanted = ["MainPID", "ExecMainPID", "ExecMainCode", "ExecMainStatus"]
    before = _begun(unit, wanted, timeout)
    pid = int(before.get("MainPID") or 0)
    if not pid:
        return exit_status(before)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        pass
    else:
        try:
            if wait is not None:
                wait(descriptor)
            elif not select.select([descriptor], [], [], timeout)[0]:
                raise StillRunningError(f"{unit} did not end within {timeout:g} s")
        finally:
            os.close(descriptor)
    end = time.monotonic() + SETTLE
    while True:
        after = show([unit], wanted)[0]
        if after.get("ExecMainPID") != str(pid):
            raise StillRunningError(f"{unit} ended and runs again; its status is in the journal")
        if after.get("MainPID") != str(pid) and after.get("ExecMainCode") != "0":
            return exit_status(after)
        if time.monotonic() > end:
            raise StillRunningError(f"{unit}: systemd did not notice that process {pid} ended")
