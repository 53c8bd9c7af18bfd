"""Users and groups by name, as a workload's own files have them: /etc/passwd and /etc/group, and nothing else.

No name service is asked and nothing of the workload is loaded: the files are opened below its root folder, read up to
a limit, and searched. Formats: passwd(5), group(5).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.workload.beneath import AS_CALLER, open_in

LIMIT = 1 << 20  # bytes of either file
LAST_ID = 65535
MAX_GROUPS = 64


class UnknownUserError(HostctlError):
    """The workload knows no such user or group."""

    id = "unknown-user"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Who runs a process inside a workload, in numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def read(root: int, path: str) -> str:
    """Return a file of the workload as text; nothing if it has none that is a regular file."""
    try:
        found = open_in(root, path, os.O_PATH, AS_CALLER)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        return _content(found).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(found)


def _content(found: int) -> bytes:
    """Return the beginning of a file, or what there is of it: a link of the workload may lead to one of its /proc that
    only goes on when the kernel has something to say."""
    data = b""
    file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while len(data) < LIMIT and (part := os.read(file, LIMIT - len(data))):
            data += part
    finally:
        os.close(file)
    return data


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LAST_ID else None


def _rows(text: str, columns: int) -> list[list[str]]:
    return [row for line in text.splitlines() if len(row := line.split(":")) >= columns]


def resolve(wanted: str, passwd: str, group: str) -> Account:
    """Return the numbers of ``USER[:GROUP]``, each a name or a number.

    Args:
        wanted: what was asked for.
        passwd: the text of the workload's /etc/passwd.
        group: that of its /etc/group.

    Raises:
        UnknownUserError: one of them is not there, or is no number that a workload has.
    """
    user, colon, group_name = wanted.partition(":")
    users, groups = _rows(passwd, 4), _rows(group, 3)
    row = next((row for row in users if user and row[0] == user), None)
    uid = _number(user) if row is None else _number(row[2])
    if row is None and uid is not None:
        row = next((row for row in users if row[2] == user), None)
    if uid is None:
        raise UnknownUserError(f"the workload knows no user {user!r}", hint="a name in its /etc/passwd, or a number")
    if colon:
        found = next((each for each in groups if group_name and each[0] == group_name), None)
        gid = _number(group_name) if found is None else _number(found[2])
        if gid is None:
            raise UnknownUserError(f"the workload knows no group {group_name!r}")
        return Account(uid=uid, gid=gid)
    gid = (_number(row[3]) if row else 0) or 0
    members = [_number(each[2]) for each in groups if row and len(each) >= 4 and row[0] in each[3].split(",")]
    others = tuple(number for number in dict.fromkeys(members) if number is not None and number != gid)
    return Account(uid=uid, gid=gid, groups=others[:MAX_GROUPS])
