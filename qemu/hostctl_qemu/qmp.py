"""A small client of QEMU's machine protocol (QMP) over a Unix socket, with a deadline for every wait.

One JSON object a line. Events that arrive while a reply is awaited are kept in order. It knows no commands.
Format: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hostctl.errors import HostctlError

MAX_LINE = 16 << 20
COMMAND_SECONDS = 30.0


class QmpError(HostctlError):
    """QEMU refused a command, or does not answer."""

    id = "qmp-failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that QEMU reports by itself, for example `RESET`."""

    name: str
    data: Mapping[str, object] = field(default_factory=dict)


def split_lines(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete lines of ``buffer`` without empty ones, and the rest that is not complete yet.

    Raises:
        QmpError: the unfinished line is longer than any message may be.
    """
    *lines, rest = buffer.split(b"\n")
    if len(rest) > MAX_LINE:
        raise QmpError("QEMU sent a message without an end")
    return [line.strip() for line in lines if line.strip()], rest


def parse_message(line: bytes) -> dict[str, object]:
    """Return one message.

    Raises:
        QmpError: it is no JSON object.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise QmpError("QEMU sent something that is not JSON", details=repr(line[:200])) from error
    if not isinstance(message, dict):
        raise QmpError("QEMU sent something that is not an object", details=repr(line[:200]))
    return message


class Qmp:
    """One connection to a running QEMU.

    Args:
        connection: a connected stream socket.
        seconds: how long the greeting may take.
    """

    def __init__(self, connection: socket.socket, seconds: float = COMMAND_SECONDS) -> None:
        self._socket = connection
        self._buffer = b""
        self._messages: list[dict[str, object]] = []
        self._events: list[Event] = []
        if "QMP" not in self._next("its greeting", time.monotonic() + seconds):
            raise QmpError("the socket is not QEMU's: no greeting")
        self.execute("qmp_capabilities", seconds=seconds)

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        self._socket.close()

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        fds: Sequence[int] = (),
        seconds: float = COMMAND_SECONDS,
    ) -> object:
        """Run a command and return what it returns.

        Args:
            command: its name, for example `stop`.
            arguments: its arguments.
            fds: descriptors that go with it, for `getfd`.
            seconds: how long the reply may take.

        Raises:
            QmpError: QEMU refused, ended, or did not answer in time.
        """
        end = time.monotonic() + seconds
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        data = json.dumps(request).encode() + b"\n"
        try:
            self._socket.settimeout(seconds)
            sent = socket.send_fds(self._socket, [data], list(fds)) if fds else 0
            self._socket.sendall(data[sent:])
        except OSError as error:
            raise QmpError(f"QEMU does not take the command {command}", details=str(error)) from error
        while True:
            message = self._next(f"the reply to {command}", end)
            if "event" in message:
                self._events.append(_event(message))
            elif "error" in message:
                raise QmpError(f"QEMU refused {command}", details=json.dumps(message["error"]))
            elif "return" in message:
                return message["return"]

    def wait_event(self, name: str, seconds: float, accept: Callable[[Event], bool] = lambda _: True) -> Event:
        """Return the next event ``name`` that ``accept`` takes; earlier ones, and others, are dropped.

        Raises:
            QmpError: none came within ``seconds``, or QEMU ended.
        """
        end = time.monotonic() + seconds
        while True:
            event = self._events.pop(0) if self._events else None
            if event is None:
                message = self._next(f"the event {name}", end)
                event = _event(message) if "event" in message else None
            if event is not None and event.name == name and accept(event):
                return event

    def wait_closed(self, seconds: float) -> None:
        """Return once QEMU closed the connection, which it does when it ends.

        Raises:
            QmpError: it did not within ``seconds``.
        """
        end = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            while self._socket.recv(65536):
                self._socket.settimeout(max(0.001, end - time.monotonic()))
        except TimeoutError as error:
            raise QmpError(f"QEMU still runs after {seconds:g} s") from error
        except ConnectionError:
            return

    def _next(self, what: str, end: float) -> dict[str, object]:
        while not self._messages:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError as error:
                raise QmpError(f"QEMU did not send {what} in time") from error
            except OSError as error:
                raise QmpError(f"the connection broke while waiting for {what}", details=str(error)) from error
            if not chunk:
                raise QmpError(f"QEMU ended while waiting for {what}")
            lines, self._buffer = split_lines(self._buffer + chunk)
            self._messages += [parse_message(line) for line in lines]
        return self._messages.pop(0)


def _event(message: Mapping[str, object]) -> Event:
    data = message.get("data")
    return Event(name=str(message["event"]), data=data if isinstance(data, dict) else {})
