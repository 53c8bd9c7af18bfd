"""A connection to a bus on which everybody may send us anything: what :mod:`hostctl.agent.bus` has under it.

dbus-next takes a message that it cannot read for the end of its connection, keeps every signature it ever saw, reads
bodies of any kind and size before anybody asks whose they are, and goes on while there is something to read. So each
message is taken off the socket and read here, one at a turn of the event loop, and dbus-next gets what is in order:

- Header fields and types of messages that nobody knows are ignored, as the D-Bus specification wants it.
- A body is read if its signature is one that this process has a use for, and if the message is not too large. The
  sender of a call with another one gets an error; such an answer to a call of ours becomes an error.
- What cannot be read is dropped. The length of a message is known, so the next one begins where it ends.
- Files come with a signature that has a place for them; others are closed.

A full socket, which dbus-next takes for a broken one, is written to again when it has room.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from struct import unpack_from
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message

FIXED = 16  # bytes that a message begins with: all that it takes to know how long it is
LARGEST = 4 << 20  # bytes of a message that answers no call of ours; the longest text a method takes has 1 MiB
LARGEST_HEADER = 16 << 10  # bytes of the fields before a body
LARGEST_OF_ALL = 128 << 20  # bytes, by the specification
CHUNK = 256 << 10  # bytes that are read at once
FILES = 16  # that may come with a message
FROM_THE_BUS = frozenset(("", "s", "u", "sss"))
"""Signatures of what the bus itself answers and tells, and of what an agent answers and tells."""

ORDERS = {ord("l"): "<", ord("B"): ">"}
VERSION = 1
KINDS = frozenset(kind.value for kind in MessageType)
ANSWERS = (MessageType.METHOD_RETURN.value, MessageType.ERROR.value)
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = range(1, 10)
FIELD_TYPES = dict(enumerate("osssussgu", PATH))
FIELD_NAMES = {PATH: "path", INTERFACE: "interface", MEMBER: "member", ERROR_NAME: "error_name"}
FIELD_NAMES |= {DESTINATION: "destination", SENDER: "sender"}
"""Those that dbus-next takes as they are."""
SIZES = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "h": 4}

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
TOO_LARGE = "org.freedesktop.DBus.Error.LimitsExceeded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One message as it came."""

    data: bytes
    """All of it, or if it is too large, its beginning."""
    whole: bool
    files: tuple[int, ...] = ()
    """Open files that came with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What stands before a body, of fields only those that are known."""

    kind: int
    flags: int
    serial: int
    texts: Mapping[int, str]
    """By the number of the field."""
    reply_serial: int
    body: int
    """Where that begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What is to become of a message: neither of both if it is dropped."""

    message: Message | None = None
    """For this process."""
    answer: Message | None = None
    """For its sender."""


class _RefusedError(Exception):
    """A message that is not let in, with the name of the D-Bus error that says so."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class _Cursor:
    """Reads values one after the other; raises ValueError where there is none."""

    __slots__ = ("_data", "_order", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._order, self.at = data, ORDERS[data[0]], at

    @property
    def at_end(self) -> bool:
        return self.at == len(self._data)

    def align(self, size: int) -> None:
        self.at += -self.at % size

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self._data):
            raise ValueError("a message that is too short")
        return self._data[start : self.at]

    def number(self) -> int:
        self.align(4)
        return int(unpack_from(f"{self._order}I", self.take(4))[0])

    def text(self) -> str:
        return self._terminated(self.number()).decode()

    def signature(self) -> str:
        return self._terminated(self.take(1)[0]).decode("ascii")

    def _terminated(self, length: int) -> bytes:
        value = self.take(length + 1)
        if value.find(0) != length:
            raise ValueError("a text that ends elsewhere than it says")
        return value[:length]

    def skip(self, types: str) -> None:
        """Pass over values of these types, whatever they are."""
        while types:
            first, types = _first_of(types)
            kind = first[0]
            if kind in SIZES:
                self.align(SIZES[kind])
                self.take(SIZES[kind])
            elif kind == "g":
                self.signature()
            elif kind in "so":
                self.take(self.number() + 1)
            elif kind == "v":
                self.skip(self.signature())
            elif kind == "a":
                length = self.number()
                self.align(8 if first[1] in "xtd({" else 1)
                self.take(length)
            elif kind == "(":
                self.align(8)
                self.skip(first[1:-1])
            else:
                raise ValueError(f"{kind!r} is no type")


def _first_of(types: str) -> tuple[str, str]:
    """Return the first complete type of a signature, and those after it."""
    opened = 0
    for index in range(len(types) - len(types.lstrip("a")), len(types)):
        opened += (types[index] in "({") - (types[index] in ")}")
        if opened == 0:
            return types[: index + 1], types[index + 1 :]
    raise ValueError(f"{types!r} is no signature")


def measure(start: bytes) -> int:
    """Return how many bytes a message has that begins with these, :data:`FIXED` of them.

    Raises:
        ConnectionError: no message begins so, and where the next one would is anybody's guess.
    """
    order = ORDERS.get(start[0])
    if order is None or start[3] != VERSION:
        raise ConnectionError("what came from the bus is no message")
    body, _, fields = unpack_from(f"{order}III", start, 4)
    length: int = FIXED + fields + -fields % 8 + body
    if length > LARGEST_OF_ALL:
        raise ConnectionError("a message from the bus is larger than any may be")
    return length


def read_header(data: bytes) -> Header:
    """Return what stands before the body.

    Raises:
        ValueError: that cannot be read.
    """
    cursor = _Cursor(data, 4)
    _, serial, length = cursor.number(), cursor.number(), cursor.number()
    if length > LARGEST_HEADER:
        raise ValueError("more fields than any message needs")
    end, texts, reply_serial = cursor.at + length, {}, 0
    while cursor.at < end:
        cursor.align(8)
        field, kind = cursor.take(1)[0], cursor.signature()
        if field not in FIELD_TYPES:
            if _first_of(kind)[1]:
                raise ValueError(f"{kind!r} is more than one value")
            cursor.skip(kind)
            continue
        if kind != FIELD_TYPES[field]:
            raise ValueError(f"field {field} is no {kind!r}")
        if kind == "u":
            number = cursor.number()
            reply_serial = number if field == REPLY_SERIAL else reply_serial
        else:
            texts[field] = cursor.signature() if kind == "g" else cursor.text()
    if cursor.at != end:
        raise ValueError("fields that end elsewhere than they say")
    cursor.align(8)
    return Header(kind=data[1], flags=data[2], serial=serial, texts=texts, reply_serial=reply_serial, body=cursor.at)


def decode(frame: Frame, signatures: Collection[str]) -> Read:
    """Decide what becomes of a message.

    Args:
        frame: the message.
        signatures: those of bodies that are read; only strings, numbers (``u``) and files (``h``) can be.
    """
    if frame.data[1] not in KINDS:
        return Read()
    try:
        header = read_header(frame.data)
    except (ValueError, RecursionError):
        return Read()
    try:
        return Read(message=_message(header, frame, signatures))
    except _RefusedError as refusal:
        return _refused(header, refusal)


def _message(header: Header, frame: Frame, signatures: Collection[str]) -> Message:
    signature = header.texts.get(SIGNATURE, "")
    if signature not in signatures:
        raise _RefusedError(INVALID, f"nothing here takes {signature!r}")
    if not frame.whole:
        raise _RefusedError(TOO_LARGE, f"the message is larger than {LARGEST >> 20} MiB")
    named: dict[str, Any] = {FIELD_NAMES[each]: text for each, text in header.texts.items() if each in FIELD_NAMES}
    try:
        files = list(frame.files) if "h" in signature else []
        body = _body(_Cursor(frame.data, header.body), signature, len(files))
        return Message(
            message_type=MessageType(header.kind),
            flags=MessageFlag(header.flags),
            serial=header.serial,
            reply_serial=header.reply_serial,
            unix_fds=files,
            signature=signature,
            body=body,
            **named,
        )
    except (ValueError, TypeError) as error:  # as dbus-next says that a name is none
        raise _RefusedError(INVALID, f"the message cannot be read: {error}") from error


def _body(cursor: _Cursor, signature: str, files: int) -> list[Any]:
    """Return the values of a body, strings and numbers; of its ``files`` each has one place there."""
    if not set(signature) <= set("suh"):
        raise ValueError(f"values of {signature!r} are not read here")
    values = [cursor.text() if kind == "s" else cursor.number() for kind in signature]
    named = sorted(value for value, kind in zip(values, signature, strict=True) if kind == "h")
    if named != [*range(files)]:
        raise ValueError("its files are not those that it says")
    if not cursor.at_end:
        raise ValueError("there is more than its signature says")
    return values


def _refused(header: Header, refusal: _RefusedError) -> Read:
    """Return what tells whoever waits for an answer that a message was refused."""
    sender, silent = header.texts.get(SENDER), header.flags & MessageFlag.NO_REPLY_EXPECTED.value
    try:
        if header.kind in ANSWERS:
            return Read(message=_error(refusal, header.reply_serial, sender=sender))
        if header.kind == MessageType.METHOD_CALL.value and not silent:
            return Read(answer=_error(refusal, header.serial, destination=sender))
    except (ValueError, TypeError):  # it says neither who sent it nor what it answers
        pass
    return Read()


def _error(refusal: _RefusedError, answered: int, **who: Any) -> Message:  # noqa: ANN401 - a name or none
    kind, name, said = MessageType.ERROR, refusal.name, [str(refusal)]
    return Message(message_type=kind, reply_serial=answered, error_name=name, signature="s", body=said, **who)


class Receiver:
    """Takes messages off a socket, each whole, and never a byte of the next one: files come with its first."""

    def __init__(self, source: socket.socket) -> None:
        self._socket = source
        self._begin()

    def _begin(self) -> None:
        self._data = bytearray()
        self._received, self._length, self._kept = 0, 0, FIXED
        self._files: list[int] = []

    def receive(self) -> Frame | None:
        """Return the next message, or none when it is not all there yet.

        Raises:
            EOFError: nothing more comes.
            OSError: the connection is broken, or what comes is not D-Bus.
        """
        try:
            if self._received < FIXED:
                self._read(FIXED - self._received)
            if self._received == FIXED:
                self._length = measure(bytes(self._data))
                self._kept = self._length if self._data[1] in ANSWERS else min(self._length, LARGEST)
            if FIXED <= self._received < self._length:
                self._read(min(self._length - self._received, CHUNK))
        except BlockingIOError:
            return None
        if self._received < max(self._length, FIXED):
            return None
        frame = Frame(data=bytes(self._data), whole=self._kept == self._length, files=tuple(self._files))
        self._begin()
        return frame

    def _read(self, count: int) -> None:
        numbers = array.array("i")
        data, ancillary, _, _ = self._socket.recvmsg(count, socket.CMSG_LEN(FILES * numbers.itemsize))
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
        self._files += numbers
        if not data:
            raise EOFError("the bus has closed the connection")
        self._received += len(data)
        self._data += data[: self._kept - len(self._data)]

    def close(self) -> None:
        """Close the files of a message that does not come any more."""
        _close(self._files)
        self._begin()


@dataclass(kw_only=True, slots=True)
class _Outgoing:
    """A message, or what is left of it, and who waits for it to be sent."""

    data: memoryview
    files: list[int]
    sent: asyncio.Future[None] | None


class Sender:
    """Writes messages one after the other; where dbus-next has its own writer, of which it asks nothing else."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: deque[_Outgoing] = deque()

    def schedule_write(self, msg: Message | None = None, future: asyncio.Future[None] | None = None) -> None:
        """Queue a message, and write when there is room; not before the bus has given us a name."""
        if msg is not None:
            data = memoryview(bytes(msg._marshall(negotiate_unix_fd=True)))  # type: ignore[no-untyped-call]
            self._queue.append(_Outgoing(data=data, files=list(msg.unix_fds or ()), sent=future))
        if self._bus.unique_name:
            self._bus._loop.add_writer(self._bus._fd, self._write)

    def _write(self) -> None:
        try:
            while self._queue:
                self._write_some(self._queue[0])
                if self._queue[0].data:
                    return
                sent = self._queue.popleft().sent
                if sent is not None and not sent.done():
                    sent.set_result(None)
        except BlockingIOError:
            return
        except OSError as error:
            sent = self._queue[0].sent
            if sent is not None and not sent.done():
                sent.set_exception(error)
            self._bus.lose(error)
            return
        self._bus._loop.remove_writer(self._bus._fd)

    def _write_some(self, message: _Outgoing) -> None:
        files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", message.files))] if message.files else []
        count = self._bus._sock.sendmsg([message.data], files)
        message.data, message.files = message.data[count:], []


class Bus(MessageBus):
    """A connection to a bus that nothing anybody sends can end or hold up."""

    def __init__(self, address: str | None, signatures: Collection[str] = ()) -> None:
        """Prepare to connect.

        Args:
            address: of the bus; none is the system bus.
            signatures: those of bodies that are read besides what the bus itself sends.
        """
        if address is None:
            super().__init__(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        else:
            super().__init__(bus_address=address, negotiate_unix_fd=True)
        self._signatures = FROM_THE_BUS.union(signatures)
        self._receiver = Receiver(self._sock)
        self._writer = Sender(self)  # type: ignore[assignment]

    def _message_reader(self) -> None:
        """Take one message. The event loop calls again while there is more, and does whatever else there is between."""
        try:
            frame = self._receiver.receive()
        except (OSError, EOFError) as error:
            self.lose(error)
            return
        if frame is None:
            return
        read = decode(frame, self._signatures)
        if read.message is None or not read.message.unix_fds:
            _close(frame.files)
        if read.answer is not None:
            self.send(read.answer)
        if read.message is not None:
            self._on_message(read.message)  # type: ignore[no-untyped-call]

    def lose(self, error: Exception) -> None:
        """Count as disconnected; who waits for something is told."""
        self._receiver.close()
        self._finalize(error)  # type: ignore[no-untyped-call]


def _close(files: Collection[int]) -> None:
    for descriptor in files:
        os.close(descriptor)
