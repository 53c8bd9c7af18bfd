"""The command line's side of the agent: typed calls over the bus."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hostctl.agent import bus
from hostctl.agent.outcome import Action, Copied, Outcome
from hostctl.agent.request import Request, encode


def _action(document: dict[str, str]) -> Action:
    return Action(
        kind=document["kind"],  # type: ignore[arg-type]  # the agent writes nothing else
        area=document["area"],  # type: ignore[arg-type]  # as above
        subject=document["subject"],
        reason=document["reason"],
        cause=document["cause"],  # type: ignore[arg-type]  # as above
    )


def apply(text: str, name: str, on_progress: Callable[[str], None], *, address: str | None = None) -> Outcome:
    """Let the agent apply a declaration.

    Args:
        text: the declaration as written.
        name: what to call it in error messages.
        on_progress: told what the agent is doing.
        address: of the bus; none is the system bus.
    """
    document = json.loads(bus.call("Apply", text, name, on_progress=on_progress, address=address))
    return Outcome(
        generation=document["generation"],
        former=document["former"],
        actions=tuple(_action(action) for action in document["actions"]),
        notes=tuple(document["notes"]),
    )


def plan(text: str, name: str, on_progress: Callable[[str], None], *, address: str | None = None) -> tuple[Action, ...]:
    """Let the agent say what applying a declaration would do; arguments as :func:`apply`."""
    document = json.loads(bus.call("Plan", text, name, on_progress=on_progress, address=address))
    return tuple(_action(action) for action in document)


def control(verb: str, name: str, *arguments: str, address: str | None = None) -> bool:
    """Let the agent start, stop, restart, kill, pause or unpause a workload; ``arguments`` as the method takes them.

    Returns whether it is done; a job has only begun.
    """
    document = json.loads(bus.call(verb.capitalize(), name, *arguments, address=address))
    return bool(document.get("waits", True))


def execute(name: str, request: Request, descriptors: Sequence[int], *, address: str | None = None) -> int:
    """Let the agent run a command in a workload on the given files; return its exit status."""
    document = json.loads(bus.call("Exec", name, encode(request), descriptors=descriptors, address=address))
    return int(document["status"])


def copy(member: str, name: str, path: str, options: str, descriptor: int, *, address: str | None = None) -> Copied:
    """Let the agent copy a tree out of a workload (``CopyOut``) or into it (``CopyIn``), as a tar stream."""
    document = json.loads(bus.call(member, name, path, options, descriptors=(descriptor,), address=address))
    return Copied(files=int(document["files"]), skipped=tuple(document["skipped"]))


def ask(
    member: str,
    *arguments: str,
    descriptors: Sequence[int] = (),
    on_progress: Callable[[str], None] = lambda text: None,
    address: str | None = None,
) -> Any:  # noqa: ANN401 - whatever the method's documentation says
    """Call a method and return its JSON document; arguments and errors as :func:`hostctl.agent.bus.call`."""
    return json.loads(bus.call(member, *arguments, descriptors=descriptors, on_progress=on_progress, address=address))
