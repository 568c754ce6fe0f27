"""A task that begins at once, and not with the next turn of the loop (Python 3.12: eager_start)."""

from __future__ import annotations

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any


def start_now(coroutine: Coroutine[Any, Any, None]) -> tuple[asyncio.Task[None], bool]:
    """Run it in a task of its own, before this returns up to where it waits for something.

    Returns the task, and whether the coroutine has come to its end without an error (the task
    itself ends with the loop's next turn).
    No task factory of the app's is asked: one may begin tasks at once, too. Where nest_asyncio lets
    a coroutine run the loop anew (asyncio has no such thing), the task begins as usual: the inner
    run would take its second step amid the first.

    Source: https://docs.python.org/3/library/asyncio-extending.html
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    if getattr(loop, "_nest_patched", False):
        return asyncio.Task(coroutine, loop=loop, context=context), False
    outer = asyncio.current_task(loop)
    ended: list[bool] = []
    begun = _begun(coroutine, ended)
    task = asyncio.Task(begun, loop=loop, context=context)
    if outer is not None:  # else a callback asks
        _leave_task(loop, outer)
    _enter_task(loop, task)
    try:
        context.run(begun.send, None)
    finally:
        _leave_task(loop, task)
        if outer is not None:
            _enter_task(loop, outer)
    return task, bool(ended)


async def _begun(coroutine: Coroutine[Any, Any, None], ended: list[bool]) -> None:
    await _in_two_parts(coroutine, ended)


@types.coroutine
def _in_two_parts(
    coroutine: Coroutine[Any, Any, None], ended: list[bool]
) -> Generator[Any, None, None]:
    """A first step, then a bare yield; all others are the task's own."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        ended.append(True)
        yield
        return
    except BaseException:  # whatever the coroutine raises is its task's
        yield
        raise
    try:
        yield
    except asyncio.CancelledError as cancelled:  # what it waits for is to be cancelled first
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        task.cancel(*cancelled.args)
    while True:
        step: Any = coroutine.send
        argument: Any = None
        try:
            yield waits_for
        except BaseException as thrown:  # whatever is thrown in is the coroutine's
            step, argument = coroutine.throw, thrown
        try:
            waits_for = step(argument)
        except StopIteration:
            return
