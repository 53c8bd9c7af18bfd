"""What the agent did, as entries of the journal with fields of their own, and how events are read from there.

The journal keeps them over boots and hands them out as they come, so nothing has to listen for an event to be seen.
Formats: systemd's Native Journal Protocol, systemd.journal-fields(7), and the message ids in systemd's sd-messages.h.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

SOCKET = "/run/systemd/journal/socket"
MARK = "HOSTCTL_EVENT=1"
ACTIONS: Mapping[str, str] = {  # sd-messages.h
    "39f53479d3a045ac8e11786248231fbf": "start",
    "9d1aaa27d60140bd96365438aad20286": "stop",
    "be02cf6855d2428ba40df7e9d022f03d": "start-failed",
    "98e322203f7a4ed290d09fe03c09fe15": "die",  # with its exit status; systemd logs it of failures only
    "7ad2d189f7e94e70a38c781354912448": "die",  # well: it ended by itself, or was asked to
    "d9b373ed55a64feb8242e02dbe79a49c": "failed",
    "5eb03494b6584870a536b337290809b3": "restart",
    "fe6faa94e7774663a0da52717891d8ef": "oom",
}
STARTING, STARTED = "7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf"
SUCCESS = "7ad2d189f7e94e70a38c781354912448"
_UNIT = re.compile(r"workload-(?P<name>[a-z0-9][a-z0-9-]*)(\.(?P<instance>[ab]|[0-9]{1,3}))?\.service")
_FIELDS = {"EXIT_CODE": "exit_code", "EXIT_STATUS": "exit_status", "UNIT_RESULT": "result", "N_RESTARTS": "restarts"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a workload, volume, generation, image or secret. ``time`` is UTC, ISO 8601."""

    time: str
    type: str
    action: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def encode(fields: Mapping[str, str]) -> bytes:
    """Return fields as a datagram of the journal's native protocol; a value may hold anything."""
    made = b""
    for name, value in fields.items():
        data = value.encode("utf-8", "replace")
        made += name.encode("ascii") + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return made


def write(action: str, name: str, *, kind: str = "workload", **attributes: str) -> None:
    """Note an event. A journal that does not answer costs the note, not what was done.

    Args:
        action: what happened, as a verb.
        name: to what.
        kind: ``workload``, ``volume``, ``generation``, ``image`` or ``secret``.
        attributes: what else is to be known, by lower-case names.
    """
    fields = {
        "MESSAGE": f"{kind} {name}: {action}",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "hostctl",
        "HOSTCTL_EVENT": "1",
        "HOSTCTL_ACTION": action,
        "HOSTCTL_TYPE": kind,
        "HOSTCTL_NAME": name,
        "HOSTCTL_ATTRIBUTES": json.dumps(attributes),
    }
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(SOCKET)
        channel.send(encode(fields))


def matches() -> list[str]:
    """Return the arguments of journalctl(1) that select events: systemd's of units, or the agent's own."""
    return ["_PID=1", *(f"MESSAGE_ID={number}" for number in (STARTING, *ACTIONS)), "+", MARK, "_UID=0"]


def _action(number: str, message: str, name: str) -> str | None:
    """Return what systemd tells of a workload; none if that is no event.

    Of a job it tells of the start when that is over, which is with the job's end. Descriptions say what is a job: one
    with a schedule goes down then, of which systemd tells besides.
    """
    described = message.rstrip(".")
    if not described.endswith(f"ob {name}"):
        return ACTIONS.get(number)
    if number == STARTING:
        return "start"
    if number == STARTED:
        return "die" if described.endswith(f" Job {name}") else None
    return ACTIONS.get(number)


def parse(line: str) -> Event | None:
    """Return the event in one line of ``journalctl --output=json``; none if it is of something else.

    What a workload prints cannot pass as an event: the fields that select are those that journald itself adds.
    """
    try:
        entry = json.loads(line)
        time = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC).isoformat(timespec="milliseconds")
        if entry.get("HOSTCTL_EVENT") == "1" and entry.get("_UID") == "0":
            return Event(
                time=time,
                type=str(entry["HOSTCTL_TYPE"]),
                action=str(entry["HOSTCTL_ACTION"]),
                name=str(entry["HOSTCTL_NAME"]),
                attributes={str(key): str(value) for key, value in json.loads(entry["HOSTCTL_ATTRIBUTES"]).items()},
            )
        found = _UNIT.fullmatch(str(entry.get("UNIT", "")))
        number = str(entry.get("MESSAGE_ID", ""))
        action = _action(number, str(entry.get("MESSAGE", "")), found["name"]) if found else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if found is None or action is None or entry.get("_PID") != "1":
        return None
    attributes = {ours: str(entry[theirs]) for theirs, ours in _FIELDS.items() if theirs in entry}
    if number in (SUCCESS, STARTED) and action == "die":
        attributes["result"] = "success"
    attributes |= {"instance": found["instance"]} if found["instance"] else {}
    return Event(time=time, type="workload", action=action, name=found["name"], attributes=attributes)
