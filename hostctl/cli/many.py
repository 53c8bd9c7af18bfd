"""One deed for several workloads at once, as Docker does it: each is told of by name, one failure stops no other."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TypeVar

from hostctl.cli.background import begun
from hostctl.errors import HostctlError

AT_ONCE = 8
Result = TypeVar("Result")


def tried(
    names: Sequence[str], deed: Callable[[str], Result], *, at_once: int = AT_ONCE
) -> Iterator[tuple[str, Result | HostctlError]]:
    """Do something to each, and yield each with what was returned or the failure, in their order.

    Args:
        names: workloads, images or others; one that occurs twice counts once.
        deed: does it to one.
        at_once: how many at the same time; 1 is one after the other, in this thread. A Ctrl-C waits for none of them.
    """
    wanted = list(dict.fromkeys(names))
    if at_once == 1:
        yield from ((name, _outcome(partial(deed, name))) for name in wanted)
        return
    free = threading.Semaphore(at_once)

    def one(name: str) -> Result:
        with free:
            return deed(name)

    under_way = {name: begun(partial(one, name)) for name in wanted}
    yield from ((name, _outcome(each.result)) for name, each in under_way.items())


def _outcome(deed: Callable[[], Result]) -> Result | HostctlError:
    try:
        return deed()
    except HostctlError as error:
        return error


def failure(name: str, error: HostctlError) -> dict[str, object]:
    """Return what a document says of one that it could not be done to."""
    return {"name": name, "done": False, "error": error.id, "brief": error.brief}


def each(
    names: Sequence[str],
    deed: Callable[[str], object],
    *,
    as_json: bool = False,
    at_once: int = AT_ONCE,
    missing: Collection[str] = (),
) -> int:
    """Do something to each, and print the names of those it was done to, in their order, or what was returned.

    Args:
        names: workloads, volumes or others; one that occurs twice counts once.
        deed: does it to one, and may return a text to print instead of the name.
        as_json: print one list of objects.
        at_once: as in :func:`tried`.
        missing: ids of errors that say that there is no such thing, where that is no failure.

    Returns:
        0, or the exit code of the first failure; failures go to standard error.
    """
    code = 0
    results: list[dict[str, object]] = []
    for name, said in tried(names, deed, at_once=at_once):
        if isinstance(said, HostctlError):
            code = code or (0 if said.id in missing else said.exit_code)
            results.append(failure(name, said))
            if not as_json:
                print(said.render(), file=sys.stderr)
        else:
            results.append({"name": name, "done": True, **({} if said is None else {"result": said})})
            if not as_json:
                print(name if said is None else said, flush=True)
    if as_json:
        print(json.dumps(results))
    return code
