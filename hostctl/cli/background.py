"""Work beside the main thread that the end of this process does not wait for.

Python joins the threads of an executor before it ends, so one that waits for something would hold up a Ctrl-C for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def begun(deed: Callable[[], Result]) -> Future[Result]:
    """Begin something in a thread of its own, and return what will have come of it."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            result = deed()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, daemon=True).start()
    return future
