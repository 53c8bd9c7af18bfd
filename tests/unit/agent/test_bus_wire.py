"""Messages that are made to harm whoever reads them: alone, and given to the real agent and its real client."""

from __future__ import annotations

import array
import json
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from hostctl.agent import bus, bus_wire

CALL, RETURN, ERROR, SIGNAL = (kind.value for kind in MessageType)
SAID_BY_THE_BUS: dict[str, tuple[str, list[object]]] = {
    "Hello": ("s", [":1.1"]),
    "AddMatch": ("", []),
    "RequestName": ("u", [1]),
    "ReleaseName": ("u", [1]),
    "GetConnectionUnixUser": ("u", [0]),
    "GetNameOwner": ("s", [":1.2"]),
}
GO = threading.Event()


def wait(call: bus.Call) -> str:
    GO.wait(20)
    return call.arguments[1]


METHODS = (
    bus.Method(name="Wait", handler=wait, strings=2, brief=True),
    bus.Method(name="Echo", handler=lambda call: " ".join(call.arguments), strings=2, brief=True),
    bus.Method(name="Write", handler=lambda call: str(len(call.descriptors)), descriptors=2, brief=True),
)


def marshalled(signature: str, *values: object) -> bytes:
    writer = Marshaller(signature, list(values))  # type: ignore[no-untyped-call]
    return bytes(writer.marshall())  # type: ignore[no-untyped-call]


def message(
    kind: int = CALL,
    *more: tuple[int, Variant],
    member: str = "Echo",
    signature: str = "ss",
    body: bytes | None = None,
    serial: int = 7,
    flags: int = 0,
) -> bytes:
    """Return a message of :1.7 as it goes over the wire, with ``more`` fields than it needs."""
    body = marshalled("ss", "a", "b") if body is None else body
    fields = [(1, Variant("o", bus.PATH)), (2, Variant("s", bus.NAME)), (3, Variant("s", member)), *more]
    fields += [(7, Variant("s", ":1.7")), (8, Variant("g", signature))]
    values = [ord("l"), kind, flags, 1, len(body), serial, [list(each) for each in fields]]
    header = Marshaller("yyyyuua(yv)", values)  # type: ignore[no-untyped-call]
    header.marshall()  # type: ignore[no-untyped-call]
    header.align(8)  # type: ignore[no-untyped-call]
    return bytes(header.buffer) + body


def numbers(size: int) -> bytes:
    """Return an array of small numbers, of so many bytes."""
    return struct.pack("<I", size) + bytes(size)


def read(data: bytes, *signatures: str, files: tuple[int, ...] = ()) -> bus_wire.Read:
    """Read a message of which everything came that is kept of it."""
    kept = data[: bus_wire.LARGEST]
    return bus_wire.decode(bus_wire.Frame(data=kept, whole=kept == data, files=files), {"ss", "h", *signatures})


MORE = (10, Variant("s", "more"))
UNKNOWN = (
    *(Variant(kind, 1) for kind in "ynqiuxtdh"),
    *(Variant("b", True), Variant("s", "ü"), Variant("o", "/x"), Variant("g", "a{sv}"), Variant("ay", b"abc")),
    *(Variant("as", ["x", ""]), Variant("at", [1]), Variant("at", []), Variant("a{sv}", {"k": Variant("x", 1)})),
    *(Variant("(ys(tv)aay)", [1, "x", [2, Variant("v", Variant("s", "x"))], [b"", b"abc"]]), Variant("v", MORE[1])),
)


@pytest.mark.parametrize("value", UNKNOWN, ids=lambda value: value.signature)
def test_fields_that_nobody_knows_are_passed_over_whatever_is_in_them(value: Variant) -> None:
    given = read(message(CALL, (10, value), (255, value), (200, Variant("y", 1)))).message
    assert given is not None
    assert (given.path, given.interface, given.member, given.sender) == (bus.PATH, bus.NAME, "Echo", ":1.7")
    assert (given.body, given.serial, given.signature) == (["a", "b"], 7, "ss")


def test_a_message_of_the_other_byte_order_says_the_same() -> None:
    body = struct.pack(">I", 2) + b"hi\0\0" + struct.pack(">I", 0) + b"\0"
    fields = b"".join(
        each.ljust(-len(each) % 8 + len(each), b"\0")
        for each in (
            b"\x01\x01o\0" + struct.pack(">I", len(bus.PATH)) + bus.PATH.encode() + b"\0",
            b"\x03\x01s\0" + struct.pack(">I", 4) + b"Echo\0",
            b"\x08\x01g\0\x02ss\0",
        )
    )
    start = b"B\x01\0\x01" + struct.pack(">III", len(body), 9, len(fields))
    given = read(start + fields + body).message
    assert given is not None
    assert (given.member, given.serial, given.body) == ("Echo", 9, ["hi", ""])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (message(signature="an", body=numbers(1 << 20)), bus_wire.INVALID),
        (message(signature="sss"), bus_wire.INVALID),
        (message(signature="", body=b""), bus_wire.INVALID),
        (message(body=marshalled("s", "a")), bus_wire.INVALID),
        (message(body=b""), bus_wire.INVALID),
        (message(body=marshalled("ss", "a", "b") + b"\0"), bus_wire.INVALID),
        (message(body=struct.pack("<I", 0xFFFFFFFF) + b"x\0"), bus_wire.INVALID),
        (message(body=struct.pack("<I", 1) + b"\xff\0\0\0" + struct.pack("<I", 0) + b"\0"), bus_wire.INVALID),
        (message(body=struct.pack("<I", 1) + b"\0\0\0\0" + struct.pack("<I", 0) + b"\0"), bus_wire.INVALID),
        (message(member="no-name"), bus_wire.INVALID),
        (message(signature="h", body=struct.pack("<I", 0)), bus_wire.INVALID),
        (message(body=marshalled("ss", "a" * bus_wire.LARGEST, "")), bus_wire.TOO_LARGE),
    ],
)
def test_a_call_that_is_not_let_in_is_answered_by_an_error(data: bytes, error: str) -> None:
    given = read(data)
    assert given.message is None
    assert given.answer is not None
    assert (given.answer.error_name, given.answer.reply_serial) == (error, 7)
    assert given.answer.destination == ":1.7"
    silent = data[:2] + b"\x01" + data[3:]  # it wants no answer
    assert read(silent) == bus_wire.Read()


@pytest.mark.parametrize(
    "data",
    [
        message(5),
        message(0),
        message(255, signature="an", body=numbers(64)),
        message(SIGNAL, signature="an", body=numbers(64)),
        message(CALL, (10, Variant("an", [1] * bus_wire.LARGEST_HEADER))),
        message(CALL, (1, Variant("s", "/x"))),
        message().replace(b"\x01s\0", b"\x01z\0", 1),
        message().replace(b"\x01s\0", b"\x02ss\0"[:3], 1),
        message(CALL, (10, Variant("s", "x" * 9))).replace(b"\x09\0\0\0xx", b"\xff\xff\0\0xx"),
        message()[:40],
    ],
)
def test_what_cannot_be_read_or_answered_is_dropped(data: bytes) -> None:
    assert read(data) == bus_wire.Read()


def test_variants_in_each_other_without_end_are_dropped() -> None:
    nested = b"\x01v\0" * (bus_wire.LARGEST_HEADER // 3 - 100)
    data = bytearray(message(CALL, (10, Variant("ay", b"x" * len(nested)))))
    at = data.index(b"\x02ay\0")
    data[at : at + len(nested)] = nested
    assert read(bytes(data)) == bus_wire.Read()


def test_an_answer_that_is_not_let_in_is_one_all_the_same() -> None:
    given = read(message(RETURN, (5, Variant("u", 3)), signature="an", body=numbers(64))).message
    assert given is not None
    assert (given.message_type, given.reply_serial, given.error_name) == (MessageType.ERROR, 3, bus_wire.INVALID)
    assert read(message(RETURN, signature="an", body=numbers(64))) == bus_wire.Read()


def test_no_signature_that_somebody_made_up_is_kept() -> None:
    values = [(10, Variant(f"({'n' * count})", [1] * count)) for count in range(1, 50)]
    made = [message(CALL, *values), *(message(signature=f"({'y' * count})", body=b"") for count in range(1, 50))]
    SignatureTree._cache.clear()
    for data in made:
        read(data)
    assert set(SignatureTree._cache) <= {"ss", "s"}


def test_of_what_is_too_large_only_the_beginning_is_kept_and_the_next_message_begins_behind_it() -> None:
    ours, theirs = socket.socketpair()
    large = message(signature="an", body=numbers(32 << 20))
    sender = threading.Thread(target=theirs.sendall, args=(large + message(serial=8),), daemon=True)
    sender.start()
    ours.setblocking(False)
    receiver = bus_wire.Receiver(ours)
    frames: list[bus_wire.Frame] = []
    while len(frames) < 2:
        select.select([ours], [], [], 5)
        frame = receiver.receive()
        frames += [frame] if frame else []
    sender.join()
    assert [(len(frame.data), frame.whole) for frame in frames] == [
        (bus_wire.LARGEST, False),
        (len(message()), True),
    ]
    assert receiver.receive() is None
    theirs.close()
    with pytest.raises(EOFError):
        receiver.receive()
    ours.close()


@pytest.mark.parametrize("start", [b"x" * 16, b"l\x01\0\x02" + bytes(12), b"l\x01\0\x01" + b"\xff" * 12])
def test_what_is_no_message_at_all_ends_the_connection(start: bytes) -> None:
    with pytest.raises(ConnectionError):
        bus_wire.measure(start)


class Wire:
    """The end of a connection whose other end takes it for the bus: it answers as one, and sends what it is told."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:path={path}"
        self.asked: queue.Queue[str] = queue.Queue()
        self.reads = threading.Event()
        self.reads.set()
        self._received: queue.Queue[Message] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._socket = socket.socket()
        self._whole = threading.Lock()

    def accept(self) -> None:
        """Take the one connection."""
        self._socket, _ = self._listener.accept()
        lines = self._socket.makefile("rb", buffering=0)
        for answer in ("OK 0123456789abcdef", "AGREE_UNIX_FD", ""):
            lines.readline()
            self._socket.sendall(f"{answer}\r\n".encode() if answer else b"")
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                reader = Unmarshaller(None, self._socket)  # type: ignore[no-untyped-call]
                while not reader.unmarshall():  # type: ignore[no-untyped-call]
                    pass
                assert reader.message is not None
                self._take(reader.message)
                self.reads.wait()

    def _take(self, asked: Message) -> None:
        if asked.destination != bus.BUS:
            self._received.put(asked)
            return
        signature, body = SAID_BY_THE_BUS[asked.member]
        answer = Message.new_method_return(asked, signature, body)
        answer.sender, answer.serial = bus.BUS, 1
        self.send(bytes(answer._marshall()))  # type: ignore[no-untyped-call]
        self.asked.put(asked.member)

    def send(self, data: bytes, files: Sequence[int] = ()) -> None:
        """Send bytes, and files with the first."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        with self._whole:
            sent = self._socket.sendmsg([data], control)
            while sent < len(data):
                sent += self._socket.send(memoryview(data)[sent:])

    def next(self) -> Message:
        """Return the next message that is not for the bus itself."""
        return self._received.get(timeout=10)

    def answer_to(self, serial: int) -> Message:
        """Return the answer to what was sent."""
        while True:
            answer = self.next()
            if answer.reply_serial == serial:
                return answer

    def close(self) -> None:
        """Go away."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._listener.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """Return a bus of which everything can be sent."""
    made = Wire(tmp_path / "bus")
    yield made
    made.close()


@pytest.fixture
def agent(wire: Wire) -> Iterator[Wire]:
    """Serve METHODS on it."""
    server = threading.Thread(
        target=bus.serve, args=(METHODS,), kwargs={"address": wire.address, "idle": 60.0}, daemon=True
    )
    server.start()
    wire.accept()
    while wire.asked.get(timeout=10) != "RequestName":
        pass
    yield wire
    wire.close()
    server.join(10)
    assert not server.is_alive()


HARMFUL = (
    message(CALL, MORE),
    message(SIGNAL, MORE),
    message(SIGNAL, MORE, signature="an", body=numbers(1 << 20)),
    message(5),
    message(signature="an", body=numbers(16 << 20)),
    message(body=marshalled("ss", "a" * (8 << 20), "b")),
    message(CALL, (10, Variant("an", [1] * bus_wire.LARGEST_HEADER))),
    message(body=struct.pack("<I", 1) + b"\xff\0\0\0" + struct.pack("<I", 0) + b"\0"),
    message(body=b""),
)


@pytest.mark.parametrize("data", HARMFUL, ids=range(len(HARMFUL)))
def test_no_message_takes_the_agent_off_the_bus_or_leaves_a_file_open(agent: Wire, data: bytes) -> None:
    reader, writer = os.pipe()
    agent.send(data, [writer] * 3)
    os.close(writer)
    agent.send(message(serial=8))
    answer = agent.answer_to(8)
    assert (answer.message_type, answer.body) == (MessageType.METHOD_RETURN, ["a b"])
    assert select.select([reader], [], [], 5)[0], "the agent still has what came with the message"
    os.close(reader)


def test_files_that_a_method_takes_come_with_the_call(agent: Wire) -> None:
    reader, writer = os.pipe()
    agent.send(message(member="Write", signature="hh", body=struct.pack("<II", 0, 1)), [writer] * 2)
    assert agent.answer_to(7).body == ["2"]
    for numbers_of_files, count in (((0, 2), 2), ((0, 0), 2), ((0, 1), 3), ((0, 1), 1)):
        sent = message(member="Write", signature="hh", body=struct.pack("<II", *numbers_of_files), serial=8)
        agent.send(sent, [writer] * count)
        assert agent.answer_to(8).error_name == bus_wire.INVALID
    os.close(writer)
    assert select.select([reader], [], [], 5)[0]
    os.close(reader)


def test_calls_are_answered_while_others_send_without_a_pause(agent: Wire) -> None:
    answered, signals = threading.Event(), message(SIGNAL) * 200

    def flood() -> None:
        while not answered.is_set():
            agent.send(signals)

    agent.send(signals * 5 + message(serial=8))
    sender = threading.Thread(target=flood, daemon=True)
    sender.start()
    try:
        assert agent.answer_to(8).body == ["a b"]
    finally:
        answered.set()
        sender.join(10)


def test_a_bus_that_does_not_read_for_a_while_gets_all_answers_in_the_end(agent: Wire) -> None:
    agent.reads.clear()
    count, text = 100, "x" * 20_000
    for serial in range(100, 100 + count):
        agent.send(message(body=marshalled("ss", text, str(serial)), serial=serial))
    with pytest.raises(queue.Empty):
        while True:  # the agent fills the socket meanwhile
            agent._received.get(timeout=1)
    agent.reads.set()
    answers = {agent.next().body[0].split()[1] for _ in range(count)}
    assert answers == {str(serial) for serial in range(100, 100 + count)}


@pytest.mark.parametrize(
    ("text", "taken"), [("", bus.CALLS), ("x" * (bus_wire.LARGEST - 1000), 8)], ids=["calls", "letters"]
)
def test_more_calls_than_there_is_room_for_are_told_so(agent: Wire, text: str, taken: int) -> None:
    GO.clear()
    for serial in range(100, 100 + taken + 3):
        agent.send(message(member="Wait", body=marshalled("ss", text, str(serial)), serial=serial))
    refused = [agent.next() for _ in range(3)]
    assert [each.error_name for each in refused] == [f"{bus.ERROR}.Failed"] * 3
    assert [json.loads(each.body[0])["id"] for each in refused] == ["too-many-calls"] * 3
    GO.set()
    answers = {agent.next().body[0] for _ in range(taken)}
    assert answers == {str(serial) for serial in range(100, 100 + taken)}
    agent.send(message(serial=8))
    assert agent.answer_to(8).body == ["a b"]


@pytest.mark.parametrize("data", HARMFUL, ids=range(len(HARMFUL)))
def test_no_message_takes_the_answer_from_whoever_called_the_agent(wire: Wire, data: bytes) -> None:
    said: list[str] = []
    caller = threading.Thread(target=lambda: said.append(bus.call("Echo", "a", "b", address=wire.address)), daemon=True)
    caller.start()
    wire.accept()
    asked = wire.next()
    reader, writer = os.pipe()
    wire.send(data, [writer] * 3)
    os.close(writer)
    assert select.select([reader], [], [], 5)[0], "the caller has the file that came with the message"
    os.close(reader)
    answer = Message.new_method_return(asked, "s", ["done"])
    answer.serial = 9
    wire.send(bytes(answer._marshall()))  # type: ignore[no-untyped-call]
    caller.join(10)
    assert said == ["done"]


def signal(sender: str, member: str, *body: str, interface: str = bus.NAME) -> bytes:
    """Return a signal as the bus would deliver it."""
    sent = Message.new_signal(bus.PATH, interface, member, "s" * len(body), list(body))
    sent.sender, sent.serial = sender, 1
    # dbus-next never writes who sent a message, because the bus does
    fields = marshalled("(yv)", [7, Variant("s", sender)])
    data = bytes(sent._marshall())  # type: ignore[no-untyped-call]
    length = int.from_bytes(data[12:16], "little")
    fields += bytes(-len(fields) % 8)
    return data[:12] + (length + len(fields)).to_bytes(4, "little") + fields + data[16:]


def test_only_the_agent_is_heard_while_it_works_and_only_as_text(wire: Wire) -> None:
    said: list[str] = []
    ask = lambda: said.append(bus.call("Echo", "a", "b", on_progress=said.append, address=wire.address))  # noqa: E731
    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    wire.accept()
    asked = wire.next()
    assert asked.member == "Echo"
    wire.send(signal(":1.66", "Progress", "from nobody"))
    wire.send(signal(":1.2", "Progress", "from the agent\x1b[2J\r"))
    wire.send(signal(":1.66", "NameOwnerChanged", bus.NAME, "", ":1.66", interface=bus.BUS))
    wire.send(signal(bus.BUS, "NameOwnerChanged", "org.example.Other", "", ":1.66", interface=bus.BUS))
    wire.send(signal(":1.66", "Progress", "from nobody"))
    wire.send(signal(":1.3", "Progress", "too early"))
    wire.send(signal(bus.BUS, "NameOwnerChanged", bus.NAME, ":1.2", ":1.3", interface=bus.BUS))
    wire.send(signal(":1.3", "Progress", "from the next one"))
    wire.send(signal(":1.2", "Progress", "from the first, which still works"))
    answer = Message.new_method_return(asked, "s", ["done"])
    answer.serial = 9
    wire.send(bytes(answer._marshall()))  # type: ignore[no-untyped-call]
    caller.join(10)
    first, *rest = said
    assert first == "from the agent�[2J�"
    assert rest == ["from the next one", "from the first, which still works", "done"]


def test_an_answer_of_an_unknown_kind_is_a_failure_and_not_waited_for(wire: Wire) -> None:
    failed: list[str] = []

    def ask() -> None:
        with pytest.raises(bus.AgentError) as caught:
            bus.call("Echo", "a", "b", address=wire.address)
        failed.append(caught.value.brief)

    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    wire.accept()
    answer = Message.new_method_return(wire.next(), "an", [[1, 2]])
    answer.serial = 9
    wire.send(bytes(answer._marshall()))  # type: ignore[no-untyped-call]
    caller.join(10)
    assert failed == ["nothing here takes 'an'"]
