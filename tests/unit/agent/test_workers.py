"""Threads for calls that last, and for those that do not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hostctl.agent.workers import CrowdedError, Workers


def test_as_many_last_as_may_and_one_more_is_told_so() -> None:
    end = threading.Event()

    async def crowd() -> None:
        workers = Workers(lasting=2, brief=1)
        held = [asyncio.ensure_future(workers.run(lambda: end.wait(10), brief=False)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(CrowdedError, match="2 calls") as caught:
            await workers.run(lambda: True, brief=False)
        assert caught.value.exit_code == 75
        assert await workers.run(lambda: 5, brief=True) == 5
        end.set()
        assert await asyncio.gather(*held) == [True, True]
        assert await workers.run(lambda: 7, brief=False) == 7
        workers.close()

    asyncio.run(crowd())


def test_a_failure_is_the_callers_and_makes_room() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def again() -> None:
        workers = Workers(lasting=1)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await workers.run(fail, brief=False)
        workers.close()

    asyncio.run(again())
