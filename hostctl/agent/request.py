"""A command that is to be run in a workload, as it goes over the bus."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from hostctl.errors import EXIT_USAGE, HostctlError

MAX_REQUEST = 1 << 20  # characters


class ExecRequestError(HostctlError):
    """What was asked for cannot be understood."""

    id = "exec-request-invalid"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A command to run. Empty ``user`` (USER[:GROUP], names or numbers) and ``workdir`` are the container's own."""

    argv: tuple[str, ...]
    terminal: bool = False
    user: str = ""
    workdir: str = ""
    env: tuple[str, ...] = field(default=())


def encode(request: Request) -> str:
    """Return the request as it goes over the bus."""
    return json.dumps(asdict(request))


def decode(text: str) -> Request:
    """Return the request that came over the bus.

    Raises:
        ExecRequestError: it is not one.
    """
    try:
        if len(text) > MAX_REQUEST:
            raise ValueError(f"more than {MAX_REQUEST} characters")  # noqa: TRY301 - one answer to all that is wrong
        document = json.loads(text)
        request = Request(
            argv=tuple(str(word) for word in document["argv"]),
            terminal=bool(document["terminal"]),
            user=str(document["user"]),
            workdir=str(document["workdir"]),
            env=tuple(str(variable) for variable in document["env"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExecRequestError("the request is not one", details=repr(error)) from error
    if not request.argv or not request.argv[0]:
        raise ExecRequestError("no command was given")
    if any("=" not in variable[1:] for variable in request.env):
        raise ExecRequestError("variables are NAME=VALUE")
    if any("\0" in word for word in (*request.argv, *request.env, request.user, request.workdir)):
        raise ExecRequestError("there is a NUL in it")
    parts = [part for part in request.workdir.split("/") if part not in ("", ".")]
    if request.workdir and (not request.workdir.startswith("/") or ".." in parts or parts[:1] == ["proc"]):
        raise ExecRequestError("the folder is an absolute path without .. and not in /proc")
    return request
