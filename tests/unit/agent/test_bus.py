"""The agent's D-Bus side, against a private dbus-daemon."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message

from hostctl.agent import bus, introspection
from hostctl.errors import EXIT_BUSY, HostctlError

POLICY = Path(__file__).parents[3] / "units/dbus/org.hostctl.Host1.conf"
# the relevant part of dbus-daemon's own system.conf, with our policy in it
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><deny own="*"/><deny send_type="method_call"/>
<allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
<allow send_destination="org.freedesktop.DBus"/></policy>
<include>{policy}</include></busconfig>"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the policy lets only root own the name")


class KettleError(HostctlError):
    """A failure with an id and an exit code of its own."""

    id = "kettle-empty"
    exit_code = EXIT_BUSY


def echo(call: bus.Call) -> str:
    call.notify("one")
    call.notify("two\0\udc80")
    return json.dumps({"uid": call.uid, "arguments": call.arguments})


def fail(call: bus.Call) -> str:
    raise KettleError(f"no water for {call.arguments[0]}", details="level 0", hint="fill it")


def fault(call: bus.Call) -> str:
    raise RuntimeError("a bug")


def write(call: bus.Call) -> str:
    os.write(call.descriptors[1], b"to the second")
    return str(len(call.descriptors))


def hold(call: bus.Call) -> str:
    """Last until the caller has gone."""
    with call.caller.watch() as gone:
        select.select([gone], [], [])
    return ""


def describe(call: bus.Call) -> str:
    """Say "it" & more,
    as it is.
    """
    return ""


METHODS = (
    bus.Method(name="Echo", handler=echo, strings=2, brief=True),
    bus.Method(name="Fail", handler=fail, strings=1, root_only=True),
    bus.Method(name="Fault", handler=fault),
    bus.Method(name="Hold", handler=hold),
    bus.Method(name="Write", handler=write, descriptors=3, root_only=True),
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a bus of our own, with the policy that the host image has; yields its process and its address."""
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(socket=tmp_path / "bus", policy=POLICY))
    process = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().decode().strip()
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def address(daemon: tuple[subprocess.Popen[bytes], str]) -> str:
    """Return the address of the bus."""
    return daemon[1]


def asked_at_length() -> frozenset[int]:
    """Return the administrators, when somebody who is none has been answered meanwhile."""
    if ASKED.is_set():
        ANSWERED.wait(10)
    return frozenset({1})


ASKED, ANSWERED = threading.Event(), threading.Event()


@pytest.fixture
def agent(address: str) -> Iterator[str]:
    """Serve METHODS on the bus; the server ends by being idle."""
    options = {"address": address, "idle": 1.0, "administrators": asked_at_length}
    server = threading.Thread(target=bus.serve, args=(METHODS,), kwargs=options)
    server.start()
    while True:
        try:
            bus.call("Echo", "", "", address=address)
            break
        except bus.AgentUnavailableError:
            assert server.is_alive(), "the server ended before it owned its name"
    yield address
    server.join(10)
    assert not server.is_alive(), "the server did not end when idle"


def test_a_call_carries_arguments_the_peers_uid_and_progress(agent: str) -> None:
    heard: list[str] = []
    answer = bus.call("Echo", "a", "ü", on_progress=heard.append, address=agent)
    assert json.loads(answer) == {"uid": os.geteuid(), "arguments": ["a", "ü"]}
    assert heard == ["one", "two��"]


def test_a_failure_keeps_its_id_exit_code_and_texts(agent: str) -> None:
    with pytest.raises(bus.AgentError) as caught:
        bus.call("Fail", "tea", address=agent)
    error = caught.value
    assert (error.id, error.exit_code) == ("kettle-empty", EXIT_BUSY)
    assert (error.brief, error.details, error.hint) == ("no water for tea", "level 0", "fill it")


def test_calls_that_last_hold_up_no_others_and_end_with_their_callers(agent: str) -> None:
    async def hold_many() -> str:
        connection = await MessageBus(bus_address=agent).connect()
        held = [asyncio.ensure_future(connection.call(message(member="Hold"))) for _ in range(60)]
        calls = (("Echo", "a", "b"), ("Fail", "tea"))
        answers = [asyncio.to_thread(bus.call, *each, address=agent) for each in calls]
        answered = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 20)
        assert not any(each.done() for each in held)
        connection.disconnect()  # type: ignore[no-untyped-call]
        for each in held:
            each.cancel()
        assert isinstance(answered[1], HostctlError)
        return f"{json.loads(str(answered[0]))['arguments']} {answered[1].id}"

    assert asyncio.run(hold_many()) == "['a', 'b'] kettle-empty"
    # that the agent ends when idle, which its fixture waits for, shows that nothing is held any more


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_interrupted_is_left_at_once(agent: str, number: signal.Signals) -> None:
    former = signal.signal(number, signal.default_int_handler)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.5, signal.pthread_kill, (main, number))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            bus.call("Hold", address=agent)
    finally:
        timer.join()
        signal.signal(number, former)
    # that the agent ends when idle shows that it was told of it


def test_a_fault_in_one_call_leaves_the_agent_answering(agent: str) -> None:
    with pytest.raises(bus.AgentError, match="a bug"):
        bus.call("Fault", address=agent)
    assert bus.call("Echo", "x", "y", address=agent)


def test_descriptors_arrive_in_order_and_are_closed_after_the_call(agent: str) -> None:
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    assert bus.call("Write", descriptors=(null, writer, null), address=agent) == "3"
    os.close(writer)
    os.close(null)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"to the second"  # end of file comes only when the agent has closed its copy


def message(**fields: object) -> Message:
    """Return a call of Echo, but for what is said."""
    usual = {"destination": bus.NAME, "path": bus.PATH, "interface": bus.NAME, "member": "Echo"}
    return Message(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/elsewhere", "interface": "org.freedesktop.DBus.Introspectable", "member": "Introspect"},
        {"path": "/elsewhere"},
        {"interface": "org.freedesktop.DBus.Introspectable", "member": "Introspect"},
        {"member": "Nothing"},
        {"member": "Write"},
        {"message_type": MessageType.SIGNAL, "member": "Progress"},
    ],
)
def test_descriptors_are_closed_whatever_the_message_is(agent: str, fields: dict[str, object]) -> None:
    async def send(writer: int) -> None:
        connection = await MessageBus(bus_address=agent, negotiate_unix_fd=True).connect()
        sent = message(signature="h" * 16, body=list(range(16)), unix_fds=[writer] * 16, **fields)
        if sent.message_type is MessageType.SIGNAL:
            await connection.send(sent)
        else:
            await connection.call(sent)
        connection.disconnect()  # type: ignore[no-untyped-call]

    reader, writer = os.pipe()
    asyncio.run(send(writer))
    os.close(writer)
    hung_up, _, _ = select.select([reader], [], [], 5)
    os.close(reader)
    assert hung_up, "the agent still has what came with the message"


UNKNOWN_FIELD = b"\xc8\x01s\0\x04\0\0\0more\0\0\0\0"  # by the specification to be ignored
LARGE = {"signature": "an", "body": [[1] * 500_000]}
WORDS = {"signature": "ss", "body": ["a", "b"]}
TO_ONE = {"message_type": MessageType.SIGNAL, "member": "Progress", "signature": "s", "body": ["x"]}


def with_one_field_more(sent: Message) -> bytes:
    """Return a message as it goes over the wire, with a field before the others that nobody knows."""
    data = bytes(sent._marshall())  # type: ignore[no-untyped-call]
    fields = int.from_bytes(data[12:16], "little") + len(UNKNOWN_FIELD)
    return data[:12] + fields.to_bytes(4, "little") + UNKNOWN_FIELD + data[16:]


@pytest.mark.parametrize("fields", [WORDS, TO_ONE, LARGE], ids=["call", "signal", "large"])
def test_no_message_of_anybody_ends_what_the_agent_works_on(agent: str, fields: dict[str, object]) -> None:
    async def attack() -> str:
        connection, other = [await MessageBus(bus_address=agent).connect() for _ in range(2)]
        held = asyncio.ensure_future(connection.call(message(member="Hold")))
        data = with_one_field_more(message(**fields, serial=1000))
        await asyncio.get_running_loop().sock_sendall(other._sock, data)
        answered = await asyncio.wait_for(asyncio.to_thread(bus.call, "Echo", "a", "b", address=agent), 20)
        assert not held.done()
        for each in (connection, other):
            each.disconnect()  # type: ignore[no-untyped-call]
        held.cancel()
        return answered

    assert json.loads(asyncio.run(attack()))["arguments"] == ["a", "b"]


def test_more_than_a_method_can_need_is_refused(agent: str) -> None:
    with pytest.raises(bus.AgentError, match="larger than 4 MiB"):
        bus.call("Echo", "x" * (5 << 20), "", address=agent)
    assert bus.call("Echo", "x" * (1 << 20), "", address=agent)


@pytest.mark.parametrize(("member", "arguments"), [("Nothing", ()), ("Echo", ("one",)), ("Echo", ("1", "2", "3"))])
def test_wrong_calls_are_refused(agent: str, member: str, arguments: tuple[str, ...]) -> None:
    with pytest.raises(bus.AgentError):
        bus.call(member, *arguments, address=agent)


def open_to_all(path: Path) -> None:
    for folder in (path, *path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)


@contextmanager
def as_user(uid: int, agent: str) -> Iterator[TextIO]:
    """Call Fail as a user; give what tells how that was answered."""
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(uid, uid, uid)
        try:
            said = bus.call("Fail", "tea", address=agent)
        except HostctlError as error:
            said = error.id
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read) as file:
        yield file
    os.waitpid(child, 0)


@pytest.mark.parametrize(("uid", "answer"), [(65534, "agent-denied"), (1, "kettle-empty")])
def test_only_root_and_administrators_may_call_what_changes_things(
    agent: str, tmp_path: Path, uid: int, answer: str
) -> None:
    open_to_all(tmp_path)
    with as_user(uid, agent) as said:
        assert said.read() == answer


def test_nobody_waits_while_it_is_looked_up_who_may(agent: str, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    ASKED.set()
    with as_user(65534, agent) as said:
        select.select([said], [], [], 1)  # it asks, and is not answered yet
        assert bus.call("Echo", "a", "b", address=agent)
        assert not select.select([said], [], [], 0)[0]
        ANSWERED.set()
        assert said.read() == "agent-denied"
    ASKED.clear()
    ANSWERED.clear()


def test_introspection_documents_what_a_method_takes_and_for_whom() -> None:
    described = bus.Method(name="Echo", handler=describe, strings=2, takes=("first",), root_only=True)
    text = introspection.document(bus.NAME, (described,))
    xml = ElementTree.fromstring(text.partition("\n<node>")[2].join(["<node>", ""]))  # noqa: S314 - ours
    (method,) = xml.iter("method")
    (note,) = method.iter("annotation")
    assert note.get("value") == 'Say "it" & more, as it is. For root and users with sudo.'
    assert [argument.get("name") for argument in method.iter("arg")] == ["first", None, "json"]


def test_a_server_that_leaves_says_so_before_it_gives_its_name_back(address: str) -> None:
    left: list[str] = []
    bus.serve(METHODS, address=address, idle=0.1, leave=lambda: left.append(_owner(address)))
    assert left[0].startswith(":")
    assert _owner(address) == ""


def _owner(address: str) -> str:
    """Return the unique name of the connection that owns the agent's name."""
    call = ["dbus-send", f"--bus={address}", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/"]
    done = subprocess.run(
        [*call, "org.freedesktop.DBus.GetNameOwner", f"string:{bus.NAME}"], check=False, capture_output=True
    )
    return done.stdout.decode().strip()


def test_the_server_ends_without_a_word_when_its_bus_goes_away(daemon: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = daemon
    script = "import sys; from hostctl.agent import bus; bus.serve((), address=sys.argv[1], idle=60.0)"
    server = subprocess.Popen([sys.executable, "-c", script, address], stderr=subprocess.PIPE)
    while not _owner(address):
        assert server.poll() is None
    process.kill()
    assert (server.wait(10), server.communicate()[1]) == (0, b"")


def test_systemd_is_told_that_the_agent_is_not_stuck(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        bus.serve(METHODS, address=address, idle=0.5)
        assert [listener.recv(64) for _ in range(2)] == [b"WATCHDOG=1"] * 2


def test_when_the_bus_goes_away_so_does_everybody_who_called(daemon: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = daemon
    held, ended = threading.Event(), threading.Event()

    def hold_and_say(call: bus.Call) -> str:
        held.set()
        hold(call)
        ended.set()
        return ""

    method = bus.Method(name="Echo", handler=hold_and_say, strings=2)
    server = threading.Thread(target=bus.serve, args=((method,),), kwargs={"address": address, "idle": 60.0})
    server.start()

    def ask() -> None:
        while not held.is_set():
            with suppress(bus.AgentUnavailableError):
                bus.call("Echo", "", "", address=address)

    caller = threading.Thread(target=ask)
    caller.start()
    assert held.wait(10)
    process.kill()
    server.join(10)
    caller.join(10)
    assert not server.is_alive()
    assert not caller.is_alive()
    assert ended.is_set()


def test_no_bus_says_so_and_exits_69(tmp_path: Path) -> None:
    with pytest.raises(bus.AgentUnavailableError) as caught:
        bus.call("Echo", address=f"unix:path={tmp_path}/none")
    assert caught.value.exit_code == 69


def test_no_agent_says_so(address: str) -> None:
    with pytest.raises(bus.AgentUnavailableError, match="cannot be reached"):
        bus.call("Echo", "", "", address=address)
