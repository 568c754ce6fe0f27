"""A task that begins at once is otherwise like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from redis_stream_queue.delivery.eager import start_now

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Program = Callable[[Start, list[Any]], Coroutine[Any, Any, None]]

LONG_S = 30.0
variable: ContextVar[str] = ContextVar("variable", default="unset")


def begun(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return start_now(coroutine)[0]


async def ends_at_once(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        seen.append(asyncio.current_task() in asyncio.all_tasks())

    await start(call())


async def raises_at_once(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        raise KeyError("x")

    [error] = await asyncio.gather(start(call()), return_exceptions=True)
    seen.append(repr(error))


async def is_the_same_task_in_every_step(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        first = asyncio.current_task()
        for _ in range(2):
            await asyncio.sleep(0)
            seen.append(asyncio.current_task() is first)

    outer = asyncio.current_task()
    task = start(call())
    seen.append(asyncio.current_task() is outer)
    await task


async def cancels_itself_before_it_waits(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("why")
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError as error:
            seen.append((error.args, task.cancelling(), task.uncancel()))
        await asyncio.sleep(0)
        seen.append("goes on")

    task = start(call())
    await asyncio.gather(task, return_exceptions=True)
    seen.append(task.cancelled())


async def cancels_itself_at_its_end(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    task = start(call())
    await asyncio.gather(task, return_exceptions=True)
    seen.append(task.done())


async def is_cancelled_while_a_task_runs_that_it_waits_for(start: Start, seen: list[Any]) -> None:
    """At once, with nothing in between: what it waits for ends first, then it."""

    async def waited_for() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            seen.append("inner")

    inner = asyncio.create_task(waited_for())
    await asyncio.sleep(0)

    async def call() -> None:
        try:
            await inner
        finally:
            seen.append(("outer", inner.cancelled()))

    task = start(call())
    await asyncio.sleep(0) if start is not begun else None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    seen.append(task.cancelled())


async def has_a_timeout(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        for limit_s in (0, 0.01):
            try:
                async with asyncio.timeout(limit_s):
                    await asyncio.sleep(LONG_S)
            except TimeoutError:
                seen.append(limit_s)

    await start(call())


async def has_a_group_in_which_one_fails(start: Start, seen: list[Any]) -> None:
    async def fails() -> None:
        raise KeyError("x")

    async def call() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.sleep(LONG_S)
        except* KeyError as errors:
            seen.append(len(errors.exceptions))

    await start(call())


async def sets_a_variable(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        variable.set("set")
        await asyncio.sleep(0)
        seen.append(variable.get())

    await start(call())
    seen.append(variable.get())


async def waits_for_something_of_another_loop(start: Start, seen: list[Any]) -> None:
    other = asyncio.new_event_loop()

    async def call() -> None:
        try:
            await other.create_future()
        except RuntimeError:
            seen.append("refused")

    await start(call())
    other.close()


async def is_started_by_a_callback(start: Start, seen: list[Any]) -> None:
    async def call() -> None:
        await asyncio.sleep(0)
        seen.append("ended")

    tasks: list[asyncio.Task[None]] = []
    asyncio.get_running_loop().call_soon(lambda: tasks.append(start(call())))
    await asyncio.sleep(0)
    await tasks[0]


@pytest.mark.parametrize(
    "program",
    [
        ends_at_once,
        raises_at_once,
        is_the_same_task_in_every_step,
        cancels_itself_before_it_waits,
        cancels_itself_at_its_end,
        is_cancelled_while_a_task_runs_that_it_waits_for,
        has_a_timeout,
        has_a_group_in_which_one_fails,
        sets_a_variable,
        waits_for_something_of_another_loop,
        is_started_by_a_callback,
    ],
)
def test_it_does_what_a_plain_task_does(program: Program) -> None:
    plain: list[Any] = []
    now: list[Any] = []
    asyncio.run(asyncio.wait_for(program(asyncio.create_task, plain), LONG_S / 3))
    asyncio.run(asyncio.wait_for(program(begun, now), LONG_S / 3))
    assert plain == now != []


async def test_it_has_begun_when_it_is_there() -> None:
    seen = []

    async def call() -> None:
        seen.append("begun")
        await asyncio.sleep(0)
        seen.append("gone on")

    task, ended = start_now(call())
    assert seen == ["begun"]
    assert not ended
    await task
    assert seen == ["begun", "gone on"]


async def test_it_says_what_has_ended_already() -> None:
    async def ends() -> None:
        pass

    async def fails() -> None:
        raise KeyError("x")

    task, ended = start_now(ends())
    assert ended
    await task
    task, ended = start_now(fails())
    assert not ended
    with pytest.raises(KeyError):
        await task


async def test_it_is_not_asked_of_a_task_factory() -> None:
    """One of the app's may begin tasks at once, too (asyncio.eager_task_factory)."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda *_, **__: pytest.fail("asked"))
    try:
        task = begun(asyncio.sleep(0))
    finally:
        loop.set_task_factory(None)
    await task
