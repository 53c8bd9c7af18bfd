"""A host's turn to restart, taken from and given back to a lock server.

The FleetLock protocol (https://coreos.github.io/zincati/development/fleetlock/protocol/): POST to ``/v1/pre-reboot``
takes a turn, to ``/v1/steady-state`` gives it back; 200 is yes, everything else no, and both may be said again. The
turn is written down *before* it is asked for, so that whatever is cut off in between, the host knows in its next boot
that it may have one to give back; the note goes when the server has it back. The server learns no machine id, only a
number made of it. Whether a restart is due, and how long to wait after a no, is not decided here.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from hostctl import durable
from hostctl.errors import EXIT_BUSY, EXIT_UNAVAILABLE, HostctlError

NAME = "fleet-lock.json"
APPLICATION = bytes.fromhex("14e56b9e37134d5fa19abcf2ad73ad95")
"""What a machine id is mixed with, see sd_id128_get_machine_app_specific(3)."""
READ_SECONDS = 10.0
"""Without a byte."""
TOTAL_SECONDS = 20.0
MAX_ANSWER = 16384  # bytes
_SAID = 200  # characters of an answer that are passed on

Question = Literal["pre-reboot", "steady-state"]


class LockRefusedError(HostctlError):
    """The lock server answered, and did not say yes."""

    id = "reboot-lock-refused"
    exit_code = EXIT_BUSY


class LockUnavailableError(HostctlError):
    """The lock server gave no answer, or none that could be one."""

    id = "reboot-lock-unavailable"
    exit_code = EXIT_UNAVAILABLE


class TurnStateError(HostctlError):
    """The note of this host's turn cannot be written."""

    id = "reboot-lock-state"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A turn that was asked for."""

    url: str
    group: str
    id: str
    boot: str
    """The boot in which it was asked for."""
    granted: bool = False
    """The server said yes. If not, it may still have: the answer was lost."""
    over: bool = False
    """It is to be given back in the same boot, because the restart was called off."""

    def is_for(self, url: str, group: str) -> bool:
        """Tell whether it is a turn of this server and group."""
        return (self.url, self.group) == (url, group)

    def due_back(self, boot: str) -> bool:
        """Tell whether it is to be given back in ``boot``."""
        return self.over or self.boot != boot


def identity(machine_id: str) -> str:
    """Return the number by which the lock server knows a machine; the machine id cannot be told from it.

    Args:
        machine_id: 32 hexadecimal digits.
    """
    mixed = bytearray(hmac.new(bytes.fromhex(machine_id), APPLICATION, hashlib.sha256).digest()[:16])
    mixed[6] = mixed[6] & 0x0F | 0x40
    mixed[8] = mixed[8] & 0x3F | 0x80
    return mixed.hex()


def read(state: Path) -> Turn | None:
    """Return the turn that is written down; none if there is none, or what is written makes no sense."""
    try:
        with (state / NAME).open("rb") as file:
            document = json.loads(file.read(MAX_ANSWER))
        words = {key: str(document[key]) for key in ("url", "group", "id", "boot")}
        granted, over = document["granted"] is True, document["over"] is True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Turn(**words, granted=granted, over=over)


def take(state: Path, wanted: Turn) -> Turn:
    """Ask for a turn and return it, granted. A former one of another server is given back first.

    Raises:
        LockRefusedError: the server does not agree.
        LockUnavailableError: it did not answer; the turn stays written down, for it may have agreed.
        TurnStateError: the state cannot be written, so nothing was asked.
    """
    with _only_one(state):
        former = read(state)
        if former is not None and not former.is_for(wanted.url, wanted.group):
            _ask(former, "steady-state")
        _write(state, wanted)
        try:
            _ask(wanted, "pre-reboot")
        except LockRefusedError:
            _forget(state)
            raise
        granted = replace(wanted, granted=True)
        _write(state, granted)
        return granted


def call_off(state: Path) -> None:
    """Note that the turn, if there is one, is to be given back though the host has not restarted.

    Raises:
        TurnStateError: the state cannot be written.
    """
    with _only_one(state):
        turn = read(state)
        if turn is not None:
            _write(state, replace(turn, over=True))


def give_back(state: Path, boot: str) -> bool:
    """Give back the turn if it is due back, and tell whether there was something to give back.

    Args:
        state: hostctl's state folder.
        boot: id of this boot, which is a good one.

    Raises:
        LockRefusedError, LockUnavailableError: the server has not taken it; try again later.
        TurnStateError: the state cannot be written.
    """
    with _only_one(state):
        turn = read(state)
        if turn is None or not turn.due_back(boot):
            return False
        _ask(turn, "steady-state")
        _forget(state)
        return True


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Keep others from the note, so that a turn is given back once."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TurnStateError(f"{state} cannot be used", details=str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(state: Path, turn: Turn) -> None:
    try:
        durable.write_file(state / NAME, json.dumps(asdict(turn), sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise TurnStateError(f"{state / NAME} cannot be written", details=str(error)) from error


def _forget(state: Path) -> None:
    try:
        (state / NAME).unlink(missing_ok=True)
        durable.sync_directory(state)
    except OSError as error:
        raise TurnStateError(f"{state / NAME} cannot be removed", details=str(error)) from error


def _ask(turn: Turn, what: Question) -> None:
    """Ask the server once.

    In a thread that is left behind when its time is up: a server that sends a byte now and then would get around
    every timeout of a single read.

    Raises:
        LockRefusedError, LockUnavailableError: it did not say yes.
    """
    answers: queue.SimpleQueue[tuple[int, str] | LockUnavailableError] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_answer(turn, what)), name=what, daemon=True).start()
    try:
        answer = answers.get(timeout=TOTAL_SECONDS)
    except queue.Empty:
        raise LockUnavailableError(f"the lock server at {turn.url} takes too long") from None
    if isinstance(answer, LockUnavailableError):
        raise answer
    status, said = answer
    if status != 200:
        refused = LockRefusedError if 400 <= status < 500 else LockUnavailableError
        raise refused(f"the lock server at {turn.url} says {status}{said}")


def _answer(turn: Turn, what: Question) -> tuple[int, str] | LockUnavailableError:
    """Return the status and what a refusal says, or the error that there is no answer."""
    import urllib3  # noqa: PLC0415 - most runs ask nobody, start-up counts

    body = json.dumps({"client_params": {"id": turn.id, "group": turn.group}}).encode()
    headers = {"fleet-lock-protocol": "true", "content-type": "application/json"}
    url = f"{turn.url.rstrip('/')}/v1/{what}"
    try:
        with urllib3.PoolManager(timeout=READ_SECONDS, retries=False) as pool:
            answer = pool.request("POST", url, body=body, headers=headers, redirect=False, preload_content=False)
            said = "" if answer.status == 200 else _said(answer.read(MAX_ANSWER))
            answer.close()
            return answer.status, said
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return LockUnavailableError(f"the lock server at {turn.url} does not answer", details=str(error))


def _said(body: bytes) -> str:
    """Return what a refusal says, ``{"kind": …, "value": …}`` by the protocol, or nothing; always one short line."""
    try:
        document = json.loads(body)
        text = ", ".join(str(document[key]) for key in ("kind", "value") if document.get(key))
    except (ValueError, AttributeError, RecursionError):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:_SAID])
    return f" ({shown})" if shown else ""
