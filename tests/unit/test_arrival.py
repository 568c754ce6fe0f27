"""A task goes on inside the call that brings what it waits for, and is otherwise like any other."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from redis_stream_queue.connection.arrival import Arrival

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Waiting:
    """A task that notes what comes, and that waits already."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.arrival = Arrival(asyncio.get_running_loop())

    async def begun(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return task

    async def _run(self) -> None:
        variable.set("of the task")
        while (came := await self.arrival.wait()) != "last":
            assert asyncio.current_task() is not None
            self.seen.append((came, variable.get()))
        raise KeyError("at its end")

    def come_from_outside(self, what: str) -> asyncio.Future[list[object]]:
        """As a socket would bring it; what was seen when ``come`` returned."""
        loop = asyncio.get_running_loop()
        then: asyncio.Future[list[object]] = loop.create_future()

        def callback() -> None:
            assert self.arrival.come(what)
            then.set_result(list(self.seen))

        loop.call_soon(callback)
        return then


async def test_the_task_goes_on_before_come_returns_and_in_its_own_context() -> None:
    waiting = Waiting()
    await waiting.begun()
    first = await waiting.come_from_outside("a")
    assert first == [("a", "of the task")]
    assert await waiting.come_from_outside("b") == [*first, ("b", "of the task")]
    assert variable.get() == "unset"


async def test_what_the_task_raises_is_its_own() -> None:
    waiting = Waiting()
    task = await waiting.begun()
    await waiting.come_from_outside("last")
    with pytest.raises(KeyError, match="at its end"):
        await task
    assert not waiting.arrival.come("nobody waits")


async def test_brought_by_another_task_it_waits_for_the_end_of_that_ones_step() -> None:
    waiting = Waiting()
    await waiting.begun()
    assert waiting.arrival.come("a")
    assert not waiting.seen
    await asyncio.sleep(0)
    assert waiting.seen == [("a", "of the task")]


async def test_a_task_that_is_cancelled_waits_no_more() -> None:
    waiting = Waiting()
    task = await waiting.begun()
    task.cancel("why")
    assert not waiting.arrival.come("too late")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert not waiting.seen


async def test_a_timeout_ends_the_wait_and_the_next_one_is_like_the_first() -> None:
    arrival = Arrival(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await arrival.wait()
    asyncio.get_running_loop().call_soon(arrival.come, "a")
    assert await arrival.wait() == "a"
