"""The threads that calls are worked on in: those that may last never keep those that are answered at once from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hostctl.errors import EXIT_BUSY, HostctlError

LASTING = 256  # calls at a time, each in a thread of its own; LimitNOFILE= of hostd.service has room for their files
BRIEF = 8  # threads, for which any number of calls wait
Result = TypeVar("Result")


class CrowdedError(HostctlError):
    """The agent works on as many calls as it can."""

    id = "too-many-calls"
    exit_code = EXIT_BUSY


class Workers:
    """Threads, for the use of one event loop."""

    def __init__(self, lasting: int = LASTING, brief: int = BRIEF) -> None:
        self._limit = lasting
        self._under_way = 0
        self._lasting = ThreadPoolExecutor(lasting, thread_name_prefix="lasting")
        self._brief = ThreadPoolExecutor(brief, thread_name_prefix="brief")

    async def run(self, deed: Callable[[], Result], *, brief: bool) -> Result:
        """Do something in a thread.

        Args:
            deed: what to do.
            brief: whether it neither waits for somebody nor takes long.

        Raises:
            CrowdedError: too many that may last are under way.
        """
        loop = asyncio.get_running_loop()
        if brief:
            return await loop.run_in_executor(self._brief, deed)
        if self._under_way >= self._limit:
            raise CrowdedError(
                f"the agent works on {self._limit} calls already, as many as it can",
                hint="try again when some have ended; each open `hostctl exec` is one",
            )
        self._under_way += 1
        try:
            return await loop.run_in_executor(self._lasting, deed)
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Let threads end that have nothing to do."""
        for pool in (self._brief, self._lasting):
            pool.shutdown(wait=False)
