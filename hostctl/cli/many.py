"""One deed for several workloads at once, as Docker does it: each is told of by name, one failure stops no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hostctl.errors import HostctlError

AT_ONCE = 8


def each(names: Sequence[str], deed: Callable[[str], object], *, as_json: bool = False) -> int:
    """Do something to each, and print the names of those it was done to, in their order, or what was returned.

    Args:
        names: workloads, volumes or others; one that occurs twice counts once.
        deed: does it to one, and may return a text to print instead of the name.
        as_json: print one list of objects.

    Returns:
        0, or the exit code of the first failure; failures go to standard error.
    """
    wanted = list(dict.fromkeys(names))
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(wanted))) as pool:
        pending = [pool.submit(deed, name) for name in wanted]
    code, results = 0, []
    for name, one in zip(wanted, pending, strict=True):
        error = one.exception()
        if error is None:
            said = one.result()
            results.append({"name": name, "done": True, **({} if said is None else {"result": said})})
            if not as_json:
                print(name if said is None else said, flush=True)
        elif isinstance(error, HostctlError):
            code = code or error.exit_code
            results.append({"name": name, "done": False, "error": error.id, "brief": error.brief})
            if not as_json:
                print(error.render(), file=sys.stderr)
        else:
            raise error
    if as_json:
        print(json.dumps(results))
    return code
