"""A timer that is moved calls back at its last time, and once."""

from __future__ import annotations

import asyncio

from redis_stream_queue._lazy_timer import STAYS_S, LazyTimer


async def called_at(*due_s: float) -> float:
    """When it calls back, in s from now, that is set to these times one after the other."""
    loop, called = asyncio.get_running_loop(), asyncio.Event()
    began_s, timer = loop.time(), LazyTimer(called.set)
    for each in due_s:
        timer.set(began_s + each)
    await asyncio.wait_for(called.wait(), 5)
    return loop.time() - began_s


async def test_it_may_be_moved_later_and_earlier() -> None:
    assert await called_at(0.01, 0.05) >= 0.045
    assert await called_at(60, 0.01) < 5


async def test_it_may_be_moved_when_it_has_run_for_a_while() -> None:
    loop, called = asyncio.get_running_loop(), asyncio.Event()
    timer = LazyTimer(called.set)
    timer.set(loop.time() + 1)
    await asyncio.sleep(STAYS_S)
    timer.set(due_s := loop.time() + 1)
    await asyncio.wait_for(called.wait(), 5)
    assert loop.time() >= due_s - 0.005


def test_it_works_in_the_loop_after_one_that_has_ended() -> None:
    called: list[int] = []
    timer = LazyTimer(lambda: called.append(1))

    async def sets(after_s: float) -> None:
        timer.set(asyncio.get_running_loop().time() + after_s)

    asyncio.run(sets(60))

    async def waits() -> None:
        await sets(0.01)
        await called_at(0.05)

    asyncio.run(waits())
    assert called == [1]
