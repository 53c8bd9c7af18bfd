"""The agent's D-Bus side, server and client; only this and :mod:`hostctl.agent.bus_wire` know dbus-next.

Who may call what is decided here, by the peer's user id as the bus knows it: everybody may ask, root and the declared
users with ``sudo: true`` may change.

One interface, one object. A method takes strings (and, for Exec, three descriptors) and returns one string, by the
method's documentation a JSON document; failures travel as D-Bus errors whose text is JSON too. Work runs in threads, so
that the bus is answered meanwhile; ``Progress`` signals go to the caller only, and what works for one who has left the
bus is told. The server ends when nothing was asked of it for a while: it gives its name back first and still answers
what had come in by then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType, RequestNameReply
from dbus_next.errors import DBusError
from dbus_next.message import Message

from hostctl.agent import bus_wire, introspection, watchdog
from hostctl.agent.caller import Caller
from hostctl.agent.workers import CrowdedError, Workers
from hostctl.errors import EXIT_UNAVAILABLE, HostctlError
from hostctl.printable import printable

log = logging.getLogger(__name__)

NAME = "org.hostctl.Host1"
PATH = "/org/hostctl/Host1"
ERROR = "org.hostctl.Host1.Error"
BUS = "org.freedesktop.DBus"  # the bus itself
CHANGED = f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged'"
IDLE = 30.0  # seconds without a call after which the server ends
CALLS = 512  # that the server has before it at once, for most of which it does not know yet whether they are allowed
LETTERS = 32 << 20  # in the arguments of these
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"
INVALID = bus_wire.INVALID
TOO_LARGE = bus_wire.TOO_LARGE
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"


class AgentUnavailableError(HostctlError):
    """The agent cannot be reached over the bus."""

    id = "agent-unavailable"
    exit_code = EXIT_UNAVAILABLE


class AgentDeniedError(HostctlError):
    """The agent does this only for root and users with sudo."""

    id = "agent-denied"


class AgentError(HostctlError):
    """The agent answered with a failure; leaf classes made by :func:`remote_error` carry its id and exit code."""

    id = "agent-failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call as a handler sees it."""

    uid: int
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...]
    notify: Callable[[str], None]
    caller: Caller = field(default_factory=Caller)


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One method: how many strings and descriptors it takes, who may call it, and what it does.

    ``root_only`` is what changes the machine or shows secrets: for root and whoever may become root anyway. ``takes``
    names the arguments for those who read the introspection, where the handler's documentation appears as well.
    ``brief`` is what neither waits for anybody nor takes long, so that a few threads are enough for all such calls.
    """

    name: str
    handler: Callable[[Call], str]
    strings: int = 0
    descriptors: int = 0
    root_only: bool = False
    takes: tuple[str, ...] = ()
    brief: bool = False

    @property
    def signature(self) -> str:
        """The D-Bus signature of its arguments."""
        return "s" * self.strings + "h" * self.descriptors


Administrators = Callable[[], frozenset[int]]
"""Returns the user ids that may do what root may; asked at each call, in a thread, since a declaration can change
them."""


def _nobody() -> frozenset[int]:
    return frozenset()


def encode_error(error: HostctlError) -> str:
    """Return the text of a D-Bus error that stands for ``error``."""
    return json.dumps(
        {
            "id": error.id,
            "brief": error.brief,
            "details": error.details,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
    )


def remote_error(text: str) -> HostctlError:
    """Return the error that an agent's error text stands for, with its id and exit code."""
    try:
        document = json.loads(text)
        identity = {"id": str(document["id"]), "exit_code": int(document["exit_code"])}
        leaf = type("AgentError", (AgentError,), identity)
        error: HostctlError = leaf(str(document["brief"]), details=str(document["details"]), hint=str(document["hint"]))
    except (ValueError, KeyError, TypeError):
        return AgentError("the agent failed", details=text)
    return error


def _close(message: Message) -> None:
    """Close the descriptors that came with a message."""
    for descriptor in message.unix_fds:
        os.close(descriptor)


class Server:
    """Answers calls on one connection until idle."""

    def __init__(self, bus: MessageBus, methods: Sequence[Method], administrators: Administrators) -> None:
        self._bus = bus
        self._administrators = administrators
        self._methods = {method.name: method for method in methods}
        self._xml = introspection.document(NAME, methods)
        self._running: set[asyncio.Task[None]] = set()
        self._callers: dict[str, set[Caller]] = {}
        self._letters = 0
        self._lost = False
        self._workers = Workers()
        self._touched = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        bus.add_message_handler(self._receive)

    def _receive(self, message: Message) -> bool | None:
        """Take a message if it is a call for us; dbus-next asks this for every message.

        What came with any other is closed here, for nobody else does it: everybody may send messages with descriptors.
        """
        ours = message.message_type is MessageType.METHOD_CALL and message.path == PATH
        if ours and message.interface in (NAME, None):
            self._touched.set()
            self._begin(message)
            return True
        _close(message)
        if message.sender == BUS and message.member == "NameOwnerChanged":
            self._left(message.body[0])
        if ours and message.interface == INTROSPECTABLE:
            self._bus.send(Message.new_method_return(message, "s", [self._xml]))
            return True
        return None

    def _begin(self, message: Message) -> None:
        """Begin to answer a call, unless others that came before take all the room there is."""
        letters = sum(len(each) for each in message.body if isinstance(each, str))
        if len(self._running) >= CALLS or self._letters + letters > LETTERS:
            _close(message)
            crowded = CrowdedError("the agent has as many calls before it as it takes", hint="try again in a moment")
            self._send(Message.new_error(message, f"{ERROR}.Failed", encode_error(crowded)))
            return
        caller = Caller()
        self._callers.setdefault(message.sender, set()).add(caller)
        task = self._loop.create_task(self._answer(message, caller))
        self._running.add(task)
        self._letters += letters

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._letters -= letters

        task.add_done_callback(ended)

    def _left(self, sender: str) -> None:
        for caller in self._callers.pop(sender, ()):
            caller.leave()

    async def follow_callers(self) -> None:
        """Let the bus tell of those who leave it."""
        await _ask_bus(self._bus, "AddMatch", f"{CHANGED},arg2=''")

    async def _uid(self, sender: str) -> int:
        """Return the peer's user id, as the bus knows it from the socket."""
        reply = await _ask_bus(self._bus, "GetConnectionUnixUser", sender)
        if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
            raise AgentDeniedError("the caller is not known to the bus")
        return int(reply.body[0])

    def _send(self, message: Message) -> None:
        if not self._lost:
            self._bus.send(message)

    async def _answer(self, message: Message, caller: Caller) -> None:
        try:
            self._send(await self._reply(message, caller))
        except HostctlError as error:
            self._send(Message.new_error(message, f"{ERROR}.Failed", encode_error(error)))
        except Exception as error:
            # the process's one broad handler: a fault in one call must not end the others, and the caller must hear
            log.exception("call of %s failed", message.member)
            self._send(Message.new_error(message, f"{ERROR}.Failed", encode_error(AgentError(f"fault: {error!r}"))))
        finally:
            _close(message)
            callers = self._callers.get(message.sender, set())
            callers.discard(caller)
            if not callers:
                self._callers.pop(message.sender, None)
            self._touched.set()

    async def _reply(self, message: Message, caller: Caller) -> Message:
        method = self._methods.get(message.member)
        if method is None:
            return Message.new_error(message, UNKNOWN, f"{NAME} has no method {message.member}")
        if message.signature != method.signature or len(message.unix_fds) != method.descriptors:
            return Message.new_error(message, INVALID, f"{method.name} takes {method.signature!r}")
        uid = await self._uid(message.sender)
        if method.root_only and uid != 0 and uid not in await self._workers.run(self._administrators, brief=True):
            return Message.new_error(message, DENIED, f"{method.name} is for root and users with sudo only")
        body = message.body
        call = Call(
            uid=uid,
            arguments=tuple(body[: method.strings]),
            descriptors=tuple(message.unix_fds[index] for index in body[method.strings :]),
            notify=lambda text: self._notify(message.sender, text),
            caller=caller,
        )
        answer = await self._workers.run(lambda: method.handler(call), brief=method.brief)
        return Message.new_method_return(message, "s", [answer])

    def _notify(self, destination: str, text: str) -> None:
        """Send Progress to one caller; called from a handler's thread.

        Printable, because the bus would cut off whoever sends a text that none may be, with a NUL for example.
        """
        signal = Message.new_signal(PATH, NAME, "Progress", "s", [printable(text)])
        signal.destination = destination
        self._loop.call_soon_threadsafe(self._send, signal)

    async def until_idle(self, seconds: float) -> None:
        """Return when no call ran or came for ``seconds``."""
        while True:
            self._touched.clear()
            try:
                await asyncio.wait_for(self._touched.wait(), seconds)
            except TimeoutError:
                if not self._running:
                    return

    async def drain(self) -> None:
        """Wait for the calls that are under way, and take no more."""
        while self._running:
            await asyncio.wait(set(self._running))
        self._workers.close()

    async def lose(self) -> None:
        """Bring calls to their end although the bus has gone, and with it everybody who made them."""
        self._lost = True
        for sender in list(self._callers):
            self._left(sender)
        await self.drain()


async def _connect(address: str | None, signatures: Collection[str] = ()) -> MessageBus:
    try:
        return await bus_wire.Bus(address, signatures).connect()
    except (OSError, DBusError) as error:
        raise AgentUnavailableError("the system bus cannot be reached", details=str(error)) from error


async def _ask_bus(bus: MessageBus, member: str, argument: str) -> Message | None:
    """Call a method of the bus itself that takes one string."""
    path, interface = "/org/freedesktop/DBus", BUS
    asked = Message(destination=BUS, path=path, interface=interface, member=member, signature="s", body=[argument])
    return await bus.call(asked)


def _disconnect(bus: MessageBus) -> None:
    bus.disconnect()  # type: ignore[no-untyped-call]  # dbus-next annotates only some methods


async def _disconnected(bus: MessageBus) -> None:
    with suppress(OSError, EOFError):
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # as above


async def _serve(
    methods: Sequence[Method],
    address: str | None,
    idle: float,
    administrators: Administrators,
    leave: Callable[[], object],
) -> None:
    bus = await _connect(address, [method.signature for method in methods])
    server = Server(bus, methods, administrators)
    await server.follow_callers()
    if await bus.request_name(NAME) is not RequestNameReply.PRIMARY_OWNER:
        raise AgentUnavailableError(f"{NAME} is owned by another process")
    feeding = asyncio.ensure_future(watchdog.feed())
    gone = asyncio.ensure_future(_disconnected(bus))
    finished = asyncio.ensure_future(server.until_idle(idle))
    await asyncio.wait({gone, finished}, return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        finished.cancel()
        await server.lose()
        return
    leave()
    await bus.release_name(NAME)
    await server.drain()
    gone.cancel()
    feeding.cancel()
    _disconnect(bus)


def serve(
    methods: Sequence[Method],
    *,
    address: str | None = None,
    idle: float = IDLE,
    administrators: Administrators = _nobody,
    leave: Callable[[], object] = lambda: None,
) -> None:
    """Own the name and answer calls until nothing was asked for ``idle`` seconds, or the bus goes away.

    Args:
        methods: the interface.
        address: of the bus; none is the system bus.
        idle: seconds.
        administrators: who besides root may call what is ``root_only``.
        leave: called before the name is given back for want of calls.

    Raises:
        AgentUnavailableError: no bus, or the name is taken.
    """
    asyncio.run(_serve(methods, address, idle, administrators, leave))


class Listener:
    """Hears what the agent tells of a call of ours. Everybody may send signals; the bus says whose the name is."""

    def __init__(self, bus: MessageBus, heard: Callable[[str], None]) -> None:
        self._bus, self._heard = bus, heard
        self._agents: set[str] = set()
        bus.add_message_handler(self._receive)

    async def learn(self) -> None:
        """Learn who the agent is, and from now on whoever becomes it: our call may start one.

        One that has given the name back answers what had come in by then, so it is listened to further.
        """
        await _ask_bus(self._bus, "AddMatch", f"{CHANGED},arg0='{NAME}'")
        reply = await _ask_bus(self._bus, "GetNameOwner", NAME)
        if reply is not None and reply.message_type is MessageType.METHOD_RETURN:
            self._agents.add(str(reply.body[0]))

    def _receive(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS and message.member == "NameOwnerChanged" and message.body[0] == NAME:
            self._agents.add(message.body[2])
        if message.sender in self._agents and (message.interface, message.member) == (NAME, "Progress"):
            self._heard(printable(str(message.body[0])))


async def _call(
    member: str,
    arguments: Sequence[str],
    descriptors: Sequence[int],
    on_progress: Callable[[str], None],
    address: str | None,
) -> str:
    bus = await _connect(address)
    listener = Listener(bus, on_progress)
    try:
        await listener.learn()
        reply = await bus.call(
            Message(
                destination=NAME,
                path=PATH,
                interface=NAME,
                member=member,
                signature="s" * len(arguments) + "h" * len(descriptors),
                body=[*arguments, *range(len(descriptors))],
                unix_fds=list(descriptors),
            )
        )
    except (OSError, EOFError, DBusError) as error:
        raise AgentUnavailableError("the connection to the agent broke", details=str(error)) from error
    finally:
        _disconnect(bus)
    if reply is None:
        raise AgentUnavailableError("the agent did not answer")
    text = str(reply.body[0]) if reply.body else ""
    if reply.message_type is MessageType.METHOD_RETURN:
        return text
    raise _error(reply.error_name, text)


def _error(name: str, text: str) -> HostctlError:
    if name.startswith(f"{ERROR}."):
        return remote_error(text)
    if name == DENIED:
        return AgentDeniedError(text, hint="run it as root, for example through sudo")
    if name in (UNKNOWN, INVALID):
        return AgentError(text, hint="the agent and this command are of different releases")
    if name == TOO_LARGE:
        return AgentError(text)
    return AgentUnavailableError(
        "the agent cannot be reached", details=f"{name}: {text}", hint="systemctl status hostd"
    )


def call(
    member: str,
    *arguments: str,
    descriptors: Sequence[int] = (),
    on_progress: Callable[[str], None] = lambda text: None,
    address: str | None = None,
) -> str:
    """Call the agent and return its answer.

    Args:
        member: the method.
        arguments: its strings.
        descriptors: open files that it gets.
        on_progress: told what the agent is doing, in printable text.
        address: of the bus; none is the system bus.

    Raises:
        AgentUnavailableError: no bus or no agent.
        AgentDeniedError: not allowed to this user.
        HostctlError: the agent failed, with the id and exit code of its error.
    """
    return asyncio.run(_call(member, arguments, descriptors, on_progress, address))
